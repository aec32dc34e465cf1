//! One `--server`: which server, and what is special about it.

/// One `--server`.
#[derive(Clone, Debug)]
pub(crate) struct ServerSpec {
    /// What the report calls it.
    pub(crate) name: String,
    /// A path that gets a PUT before the server is used.
    pub(crate) prepare: Option<String>,
    /// The path of a stream that gets requests beside measured appends.
    pub(crate) trouble: Option<String>,
    /// Subscribers that never read, beside those that `fanout` measures.
    pub(crate) stalled: usize,
    /// How to get at it.
    pub(crate) source: ServerSource,
}

/// Where a server comes from.
#[derive(Clone, Debug)]
pub(crate) enum ServerSource {
    /// It runs already.
    Running {
        /// The URL that stream names are appended to.
        url: String,
        /// Its process.
        pid: u32,
    },
    /// It is started here.
    Started {
        /// The command, split at spaces, with `{port}`, `{admin_port}` and `{dir}` to be filled in.
        command: String,
        /// The path that stream names are appended to.
        root: String,
    },
}

impl std::str::FromStr for ServerSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<ServerSpec, String> {
        let (mut name, mut url, mut pid, mut command) = (None, None, None, None);
        let (mut prepare, mut trouble, mut stalled) = (None, None, 0);
        let mut root = "/v1/stream".to_owned();
        let mut rest = text;
        while !rest.is_empty() {
            let (key, tail) = rest.split_once('=').ok_or_else(|| format!("no '=' in {rest:?}"))?;
            let (value, tail) = match key {
                "cmd" => (tail, ""),
                _ => tail.split_once(',').unwrap_or((tail, "")),
            };
            match key {
                "name" => name = Some(value.to_owned()),
                "url" => url = Some(value.to_owned()),
                "pid" => pid = Some(value.parse().map_err(|_| format!("pid={value} is no number"))?),
                "cmd" => command = Some(value.to_owned()),
                "root" => root = value.to_owned(),
                "prepare" => prepare = Some(value.to_owned()),
                "trouble" => trouble = Some(value.to_owned()),
                "stalled" => stalled = value.parse().map_err(|_| format!("stalled={value} is no number"))?,
                _ => {
                    let known = "name, url, pid, root, prepare, trouble, stalled and cmd";
                    return Err(format!("unknown key {key:?}; known are {known}"));
                }
            }
            rest = tail;
        }
        let source = match (url, pid, command) {
            (Some(url), Some(pid), None) => ServerSource::Running { url, pid },
            (None, None, Some(command)) => ServerSource::Started { command, root },
            _ => return Err("a server needs either url and pid, or cmd".to_owned()),
        };
        Ok(ServerSpec { name: name.ok_or("a server needs a name")?, prepare, trouble, stalled, source })
    }
}
