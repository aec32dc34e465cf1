//! Commands that print something and end: `weir config` and what a package needs.

use std::fs;
use std::io;
use std::process::{Command, Output, Stdio};

use crate::in_memory;

#[test]
fn config_print_shows_what_file_environment_and_flags_give() {
    let (_home, path) = file("[server]\nlisten = 'localhost:1'\nshards = 2\n[log]\nlevel = 'warn'\n");
    let printed = weir(&["config", "print", "--config", &path, "--shards", "3"], &[("WEIR_LOG_FORMAT", "json")]);
    let text = succeeded(&printed);
    for line in
        ["listen = \"localhost:1\"", "shards = 3", "level = \"warn\"", "format = \"json\"", "auto_create = true"]
    {
        assert!(text.lines().any(|printed| printed == line), "{line} is not in\n{text}");
    }
    // It is a file that gives the same.
    let (_home, path) = file(&text);
    assert_eq!(succeeded(&weir(&["config", "print", "--config", &path], &[])), text);
}

#[test]
fn config_check_says_ok_or_what_is_wrong() {
    let (_home, good) = file("[http]\nlong_poll_timeout_ms = 1\n");
    assert_eq!(succeeded(&weir(&["config", "check", "--config", &good], &[])), "ok\n");
    let (_home, unfit) = file("[wal]\nsegment_bytes = 4096\n");
    for (args, env, named) in [
        (["--config", unfit.as_str()], ("HOME", "/"), "wal.segment_bytes"),
        (["--listen", ":4437"], ("HOME", "/"), "--insecure"),
        (["--config", good.as_str()], ("WEIR_LOG_LEVEL", "warning"), "log.level"),
        (["--config", "/does/not/exist.toml"], ("HOME", "/"), "/does/not/exist.toml"),
    ] {
        let checked = weir(&[&["config", "check"], args.as_slice()].concat(), &[env]);
        let error = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert_eq!((checked.status.code(), checked.stdout.len()), (Some(2), 0), "{error}");
        assert!(error.starts_with("weir: ") && error.contains(named), "{named} is not named: {error}");
    }
    let passed_over = weir(&["config", "check", "--config", &good], &[("WEIR_LISEN", "localhost:1")]);
    assert_eq!(succeeded(&passed_over), "ok\n");
    assert!(String::from_utf8_lossy(&passed_over.stderr).contains("WEIR_LISEN"));
}

#[test]
fn the_sample_is_a_configuration_that_starts_a_server() {
    let sample = succeeded(&weir(&["config", "default"], &[]));
    let (_home, path) = file(&sample);
    assert_eq!(succeeded(&weir(&["config", "check", "--config", &path], &[])), "ok\n");
    let exit = in_memory().args(&["--config", &path]).start().stop();
    assert_eq!(exit.code, Some(0), "{}", exit.log);
}

#[test]
fn who_reads_only_the_beginning_ends_nothing_badly() {
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    let status = command(&["config", "default"], &[]).stdout(writer).status();
    assert!(status.expect("the binary starts").success());
}

#[test]
fn help_ends_with_where_the_rest_is_and_a_version_names_its_commit() {
    for args in [["--help"].as_slice(), &["serve", "--help"]] {
        let help = succeeded(&weir(args, &[]));
        for said in ["weir config default", "WEIR_DATA_DIR", "\n  6  a write-ahead log is damaged"] {
            assert!(help.contains(said), "{said} is not in\n{help}");
        }
    }
    let version = succeeded(&weir(&["--version"], &[]));
    let version = version.trim_end().strip_prefix("weir 0.1.0").expect("the version");
    // Without git, there is none.
    let commit = version.strip_prefix(" (").and_then(|rest| rest.strip_suffix(')'));
    assert!(version.is_empty() || commit.is_some_and(|commit| commit.len() >= 12), "{version}");
}

#[test]
fn a_package_has_completions_and_manual_pages() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(succeeded(&weir(&["completions", shell], &[])).contains("admin-listen"), "{shell}");
    }
    assert!(succeeded(&weir(&["man"], &[])).contains(".TH weir 1"));
    assert!(succeeded(&weir(&["man", "serve"], &[])).contains("admin\\-listen"));
    assert!(succeeded(&weir(&["man", "config", "print"], &[])).contains(".TH weir-config-print 1"));
    let unknown = weir(&["man", "config", "prnt"], &[]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no command `weir config prnt`"), "{unknown:?}");
}

/// A configuration file, for as long as its folder is kept.
fn file(content: &str) -> (tempfile::TempDir, String) {
    let home = tempfile::tempdir().expect("a temporary directory");
    let path = home.path().join("weir.toml");
    fs::write(&path, content).expect("a file is written");
    (home, path.to_string_lossy().into_owned())
}

fn weir(args: &[&str], env: &[(&str, &str)]) -> Output {
    command(args, env).output().expect("the binary starts")
}

fn command(args: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WEIR_")) {
        command.env_remove(name);
    }
    command.args(args).envs(env.iter().copied()).stdin(Stdio::null());
    command
}

#[track_caller]
fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}
