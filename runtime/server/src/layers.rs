//! Where a configuration's values come from: defaults, then the file, then `WEIR_*` variables, then flags.
//!
//! The defaults, written as a TOML table, are also the list of all keys and of their kinds: a variable's name is looked
//! up there and its text read as that kind, so that a new key needs no line here. Nothing unknown is passed over in silence: a
//! misspelt limit that does not hold is found too late. In the file it is an error. Among the variables it is a warning, for
//! others set them too: Kubernetes gives every pod beside a Service `weir` a `WEIR_PORT`, and those are known to be none of ours.

use std::ffi::OsString;

use serde::Deserialize;
use toml::{Table, Value};

use crate::cli::ConfigArgs;
use crate::config::{Config, ConfigError, SECRET_VARIABLE};

/// The prefix of all our environment variables.
const PREFIX: &str = "WEIR_";

/// Merges all sources and checks the result. `env` is the process's environment. Gives back the names of variables that look
/// as if they were ours and are not, too.
///
/// # Errors
/// Any [`ConfigError`].
pub(crate) fn load(
    args: &ConfigArgs,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(Config, Vec<String>), ConfigError> {
    let mut unknown = Vec::new();
    let mut config = match &args.config {
        None => Config::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|source| ConfigError::FileUnreadable { path: path.clone(), source })?;
            toml::from_str(&text).map_err(|error: toml::de::Error| {
                let reason = error.to_string().trim_end().to_string();
                ConfigError::FileInvalid { path: path.clone(), reason }
            })?
        }
    };
    for (name, value) in env {
        let name = name.to_string_lossy();
        if !name.starts_with(PREFIX) {
            continue;
        }
        match with_variable(&config, &name, &value)? {
            Some(with_variable) => config = with_variable,
            None if is_of_a_service(&name) || name == SECRET_VARIABLE => {}
            None => unknown.push(name.into_owned()),
        }
    }
    config = with_flags(config, args);
    config.check()?;
    Ok((config, unknown))
}

/// Whether a variable has a name that Kubernetes gives the address of a Service, and Docker that of a link: `WEIR_PORT`,
/// `WEIR_SERVICE_HOST`, `WEIR_ADMIN_PORT_80_TCP_ADDR`.
fn is_of_a_service(name: &str) -> bool {
    let words: Vec<&str> = name.split('_').skip(1).collect();
    let has = |run: &[&str]| words.windows(run.len()).any(|words| words == run);
    has(&["SERVICE", "HOST"]) || has(&["SERVICE", "PORT"]) || words.contains(&"PORT")
}

/// The configuration with one environment variable's value, if there is such a key.
fn with_variable(config: &Config, name: &str, text: &OsString) -> Result<Option<Config>, ConfigError> {
    let invalid = |reason: String| ConfigError::ValueInvalid { name: name.to_string(), reason };
    let mut table = Table::try_from(config).expect("every section can be written as TOML");
    let place = table
        .iter_mut()
        .filter_map(|(section, keys)| keys.as_table_mut().map(|keys| (section, keys)))
        .flat_map(|(section, keys)| keys.iter_mut().map(move |(key, value)| (variable_of(section, key), value)))
        .find_map(|(variable, value)| (variable == name).then_some(value));
    let Some(place) = place else { return Ok(None) };
    let text = text.to_str().ok_or_else(|| invalid("it is not UTF-8".to_string()))?;
    *place = match place {
        Value::Integer(_) => text.parse().map(Value::Integer).map_err(|_| invalid(format!("{text:?} is no number")))?,
        Value::Boolean(_) => {
            text.parse().map(Value::Boolean).map_err(|_| invalid(format!("{text:?} is neither true nor false")))?
        }
        _ => Value::String(text.to_string()),
    };
    Config::deserialize(table).map(Some).map_err(|error| invalid(error.message().to_string()))
}

/// `WEIR_<SECTION>_<KEY>`, and `WEIR_<KEY>` for the section that everyone needs.
fn variable_of(section: &str, key: &str) -> String {
    match section {
        "server" => format!("{PREFIX}{key}").to_ascii_uppercase(),
        _ => format!("{PREFIX}{section}_{key}").to_ascii_uppercase(),
    }
}

/// The configuration with the flags that were given.
fn with_flags(mut config: Config, args: &ConfigArgs) -> Config {
    let server = &mut config.server;
    if let Some(listen) = &args.listen {
        server.listen = listen.clone();
    }
    if let Some(listen) = &args.admin_listen {
        server.admin_listen = listen.clone();
    }
    if let Some(dir) = &args.data_dir {
        server.data_dir = dir.into();
    }
    server.shards = args.shards.unwrap_or(server.shards);
    server.groups = args.groups.unwrap_or(server.groups);
    server.in_memory |= args.in_memory;
    server.insecure |= args.insecure;
    let cluster = &mut config.cluster;
    cluster.node_id = args.node_id.unwrap_or(cluster.node_id);
    if let Some(id) = &args.cluster_id {
        cluster.id = id.clone();
    }
    if let Some(listen) = &args.cluster_listen {
        cluster.listen = listen.clone();
    }
    if let Some(advertise) = &args.cluster_advertise {
        cluster.advertise = advertise.clone();
    }
    if let Some(join) = &args.join {
        cluster.join = join.clone();
    }
    if !args.peers.is_empty() {
        cluster.peers = args.peers.join(",");
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;

    fn load_from(file: &str, env: &[(&str, &str)], args: ConfigArgs) -> Result<Config, String> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("weir.toml");
        std::fs::write(&path, file).expect("a file is written");
        let env = env.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        load(&ConfigArgs { config: Some(path), ..args }, env)
            .map(|(config, _)| config)
            .map_err(|error| error.to_string())
    }

    fn refusal(file: &str, env: &[(&str, &str)]) -> String {
        load_from(file, env, ConfigArgs::default()).expect_err("a refused configuration")
    }

    #[test]
    fn flags_win_over_environment_over_file_over_defaults() {
        let file = "[server]\nshards = 2\ngroups = 2\ndata_dir = 'file'\n[http]\nlong_poll_timeout_ms = 7";
        let env = [("WEIR_GROUPS", "3"), ("WEIR_DATA_DIR", "env"), ("WEIR_LOG_FORMAT", "json"), ("HOME", "/home/me")];
        let args = ConfigArgs { data_dir: Some("flag".to_string()), ..ConfigArgs::default() };
        let config = load_from(file, &env, args).expect("a valid configuration");
        assert_eq!((config.server.shards, config.server.groups), (2, 3));
        assert_eq!(config.server.data_dir.to_str(), Some("flag"));
        assert_eq!((config.http.long_poll_timeout_ms, config.log.format), (7, LogFormat::Json));
        assert_eq!(config.wal, Config::default().wal);
    }

    #[test]
    fn every_key_has_its_variable() {
        let table = Table::try_from(Config::default()).expect("defaults are written");
        for (section, keys) in &table {
            for (key, value) in keys.as_table().expect("a section") {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
                let config = with_variable(&Config::default(), &variable_of(section, key), &text.into());
                assert_eq!(config.expect("a valid value"), Some(Config::default()), "{section}.{key}");
                assert!(!is_of_a_service(&variable_of(section, key)), "{section}.{key}");
            }
        }
        assert_eq!(variable_of("server", "admin_listen"), "WEIR_ADMIN_LISTEN");
        assert_eq!(variable_of("http", "long_poll_timeout_ms"), "WEIR_HTTP_LONG_POLL_TIMEOUT_MS");
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        assert!(refusal("[server]\nlisen = '127.0.0.1:1'", &[]).contains("`lisen`"));
        assert!(refusal("[sever]", &[]).contains("`sever`"));
    }

    #[test]
    fn unknown_variables_are_named_but_for_those_of_a_service() {
        let unknown = |names: &[&str]| {
            let env = names.iter().map(|name| (OsString::from(name), OsString::from("tcp://10.0.0.1:4437")));
            load(&ConfigArgs::default(), env).expect("they are passed over").1
        };
        assert_eq!(unknown(&["WEIR_LISEN", "WEIR_SERVER_LISTEN", "HOME"]), ["WEIR_LISEN", "WEIR_SERVER_LISTEN"]);
        let of_services = [
            "WEIR_PORT",
            "WEIR_SERVICE_HOST",
            "WEIR_SERVICE_PORT",
            "WEIR_SERVICE_PORT_HTTP",
            "WEIR_PORT_4437_TCP",
            "WEIR_PORT_4437_TCP_ADDR",
            "WEIR_ADMIN_PORT",
            "WEIR_ADMIN_SERVICE_HOST",
            "WEIR_ADMIN_PORT_4438_TCP_PROTO",
        ];
        assert!(unknown(&of_services).is_empty(), "{:?}", unknown(&of_services));
    }

    #[test]
    fn values_of_the_wrong_kind_are_refused_by_name() {
        assert!(refusal("[server]\nshards = 'two'", &[]).contains("shards = 'two'"));
        assert!(refusal("[server]\nshards = 70000", &[]).contains("70000"));
        assert!(refusal("", &[("WEIR_SHARDS", "two")]).contains("WEIR_SHARDS"));
        assert!(refusal("", &[("WEIR_SHARDS", "-1")]).contains("WEIR_SHARDS"));
        assert!(refusal("", &[("WEIR_IN_MEMORY", "yes")]).contains("WEIR_IN_MEMORY"));
        assert!(refusal("", &[("WEIR_LISTEN", "4437")]).contains("WEIR_LISTEN"));
        assert!(refusal("", &[("WEIR_LISTEN", "0.0.0.0:4437")]).contains("--insecure"));
    }

    #[test]
    fn addresses_are_resolved_wherever_they_come_from() {
        let file = "[server]\nadmin_listen = 'localhost:2'";
        let config = load_from(file, &[("WEIR_LISTEN", "localhost:1")], ConfigArgs::default());
        let server = config.expect("a valid configuration").server;
        assert_eq!(server.listen.socket().to_string(), "127.0.0.1:1");
        assert_eq!(server.admin_listen.socket().to_string(), "127.0.0.1:2");
        assert!(refusal("[server]\nlisten = 'localhost'", &[]).contains("must have a port"));
        assert!(refusal("", &[("WEIR_LISTEN", ":4437")]).contains("--insecure"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let args = ConfigArgs { config: Some("/nowhere/weir.toml".into()), ..ConfigArgs::default() };
        let error = load(&args, []).expect_err("there is no such file");
        assert!(error.to_string().contains("/nowhere/weir.toml"));
    }
}
