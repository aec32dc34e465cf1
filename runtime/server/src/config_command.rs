//! `weir config`: the configuration shown, checked, and as a sample with every key.

use crate::config::{Config, ConfigError};

/// What `weir config default` prints: every key with its default and what it means.
pub(crate) const SAMPLE: &str = include_str!("../weir.toml");

/// The configuration as a file that gives the same.
pub(crate) fn to_toml(config: &Config) -> String {
    toml::to_string(config).expect("every section can be written as TOML")
}

/// Checks what a start would refuse of a configuration that is valid by itself: sizes that do not fit each other, on a node with
/// one write-ahead log per shard, as a new one has.
///
/// # Errors
/// [`ConfigError::OutOfRange`].
pub(crate) fn check(config: &Config) -> Result<(), ConfigError> {
    config.sizes(config.shards()).map(drop)
}

#[cfg(test)]
mod tests {
    use toml::Table;

    use super::*;

    #[test]
    fn the_sample_has_every_key_with_its_default() {
        let sample: Config = toml::from_str(SAMPLE).expect("the sample is a configuration");
        assert_eq!(sample, Config::default());
        let keys: Table = toml::from_str(SAMPLE).expect("the sample is TOML");
        assert_eq!(keys, Table::try_from(Config::default()).expect("defaults are written"));
    }

    #[test]
    fn the_sample_says_of_every_key_what_it_means_and_in_which_unit() {
        let mut comment = String::new();
        for line in SAMPLE.lines() {
            if let Some(text) = line.strip_prefix('#') {
                comment.push_str(text);
                continue;
            }
            if let Some((key, _)) = line.split_once(" = ") {
                assert!(!comment.is_empty(), "{key} has no comment");
                let unit = if key.ends_with("_ms") { "milliseconds" } else { "ytes" };
                let has_unit = key.ends_with("_ms") || key.contains("bytes");
                assert!(!has_unit || comment.contains(unit), "{key} has no unit: {comment}");
            }
            comment.clear();
        }
    }

    /// `docs/configuration.md` is made of the sample: with `UPDATE_EXPECT=1` this test writes it.
    #[test]
    fn the_page_says_what_the_sample_says() {
        expect_test::expect_file!["../../../docs/configuration.md"].assert_eq(&page());
    }

    #[test]
    fn variables_of_the_packages_are_keys() {
        let page = page();
        let mut names = 0;
        for package in [
            include_str!("../../../packaging/Dockerfile"),
            include_str!("../../../packaging/compose.yaml"),
            include_str!("../../../packaging/weir.service"),
            include_str!("../../../packaging/helm/weir/values.yaml"),
            include_str!("../../../packaging/helm/weir/templates/statefulset.yaml"),
        ] {
            let words = package.split(|c: char| !c.is_ascii_uppercase() && c != '_');
            for name in words.filter(|word| word.len() > "WEIR_".len() && word.starts_with("WEIR_")) {
                assert!(page.contains(&format!("`{name}`")), "{name} is the variable of no key");
                names += 1;
            }
        }
        assert!(names > 5, "variables are found: {names}");
    }

    /// The sample as a page, a table for each section.
    fn page() -> String {
        let mut page =
            "# Configuration\n\nEvery key with its default, its environment variable and what it means. This page is \
            made of `runtime/server/weir.toml`, which `weir config default` prints.\n"
                .to_string();
        let mut comment = String::new();
        let mut section = String::new();
        for line in SAMPLE.lines() {
            if let Some(text) = line.strip_prefix('#') {
                comment.push_str(text);
                comment.push(if text.ends_with('.') { '\n' } else { ' ' });
                continue;
            }
            let about = comment.split_whitespace().collect::<Vec<_>>().join(" ");
            if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
                section = name.to_owned();
                page.push_str(&format!("\n## `[{section}]`\n\n"));
                page.push_str(&if about.is_empty() { String::new() } else { format!("{about}\n\n") });
                page.push_str("| key | default | variable | meaning |\n|---|---|---|---|\n");
            } else if let Some((key, default)) = line.split_once(" = ") {
                let prefix = if section == "server" { String::new() } else { format!("{}_", section.to_uppercase()) };
                let variable = format!("WEIR_{prefix}{}", key.to_uppercase());
                page.push_str(&format!("| `{key}` | `{default}` | `{variable}` | {about} |\n"));
            } else if !about.is_empty() {
                let text = comment.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
                let text: Vec<String> = text.skip(1).collect();
                page.push_str(&format!("\n{}\n", text.join("\n")));
            }
            comment.clear();
        }
        page
    }

    #[test]
    fn what_is_printed_gives_the_same_configuration() {
        let mut config = Config::default();
        config.server.listen = "localhost:1".parse().expect("an address");
        config.server.shards = 3;
        config.http.cors_origins = "https://a.example".to_string();
        let printed = to_toml(&config);
        assert!(printed.contains("listen = \"localhost:1\""), "{printed}");
        assert_eq!(toml::from_str::<Config>(&printed).expect("a configuration"), config);
    }

    #[test]
    fn sizes_that_do_not_fit_each_other_are_refused() {
        let mut config = Config::default();
        check(&config).expect("the defaults fit");
        config.wal.segment_bytes = 4096;
        assert!(check(&config).expect_err("no body fits").to_string().contains("wal.segment_bytes"));
    }
}
