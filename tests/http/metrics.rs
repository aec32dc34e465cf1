//! `/metrics` as Prometheus reads it, what `examples/monitoring` asks of it, and the access log.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use weir_testkit::{Client, Events, Request, Server};

use crate::{append, create, in_memory, metric, on_disk, read, wait_until};

const TARGET: &str = "/watched/stream";
/// What Prometheus itself gives to every sample.
const ADDED_LABELS: [&str; 2] = ["instance", "job"];
/// The one family that Prometheus makes by itself.
const UP: &str = "up";

/// One line of `/metrics`.
#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

#[test]
fn the_text_is_what_prometheus_reads() {
    let server = on_disk().args(&["--shards", "2"]).start();
    serve_something(&server);
    let text = text(&server);
    let (mut kinds, mut seen, mut family) = (BTreeMap::new(), BTreeSet::new(), String::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("a family has help");
            assert!(help.len() > 5 && help.ends_with('.'), "{line}");
            assert!(is_name(name) && !kinds.contains_key(name), "{name} is a name and there once");
            family = name.to_string();
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a family has a type");
            assert_eq!(name, family, "the type follows the help");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            kinds.insert(name.to_string(), kind.to_string());
        } else {
            let Sample { name, labels, value } = sample(line);
            let is_part = kinds[&family] == "histogram"
                && ["_bucket", "_sum", "_count"].iter().any(|part| name == format!("{family}{part}"));
            assert!(name == family || is_part, "{name} is below another family, {family}");
            assert!(labels.keys().all(|label| is_name(label)) && value >= 0.0, "{line}");
            assert!(seen.insert((name, labels)), "{line} is there twice");
        }
    }
    let histograms: Vec<_> = kinds.iter().filter(|(_, kind)| *kind == "histogram").map(|(name, _)| name).collect();
    assert!(histograms.len() >= 9, "{histograms:?}");
    let samples = samples(&text);
    for name in histograms {
        check_histogram(name, &samples);
    }
}

/// Buckets grow, and the last one has all.
fn check_histogram(name: &str, samples: &[Sample]) {
    let mut buckets: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
    for sample in samples.iter().filter(|sample| sample.name == format!("{name}_bucket")) {
        let mut labels = sample.labels.clone();
        let end = labels.remove("le").expect("a bucket has an end");
        buckets.entry(labels).or_default().push((end.parse().expect("a number"), sample.value));
    }
    assert!(!buckets.is_empty(), "{name} has no buckets");
    for (labels, buckets) in buckets {
        assert!(buckets.is_sorted_by(|(end, count), (next, more)| end < next && count <= more), "{name} {labels:?}");
        let part = |part: &str| {
            let mut parts = samples.iter().filter(|sample| sample.name == format!("{name}_{part}"));
            parts.find(|sample| sample.labels == labels).expect("each histogram has it").value
        };
        assert_eq!(buckets.last(), Some(&(f64::INFINITY, part("count"))), "{name} {labels:?}");
        assert!(part("sum") >= 0.0);
    }
}

#[test]
fn what_was_served_is_counted() {
    let server = on_disk().args(&["--shards", "2"]).start();
    serve_something(&server);
    let samples = samples(&text(&server));
    let requests = |route: &str, status: &str| -> f64 {
        let of = |sample: &&Sample| sample.labels["route"] == route && sample.labels["status"] == status;
        let requests = samples.iter().filter(|sample| sample.name == "weir_requests_total");
        requests.filter(of).map(|sample| sample.value).sum()
    };
    for (route, status, count) in [
        ("create", "201", 1.0),
        ("append", "204", 2.0),
        ("append", "404", 1.0),
        ("read", "200", 1.0),
        ("long_poll", "200", 1.0),
        ("sse", "200", 1.0),
        ("summary", "404", 1.0),
        ("head", "200", 1.0),
        ("delete", "404", 1.0),
        ("other", "200", 1.0),
    ] {
        assert_eq!(requests(route, status), count, "{route} {status}");
    }
    for (name, least) in [
        ("weir_append_seconds_count", 2.0),
        ("weir_read_seconds_count", 2.0),
        ("weir_batch_commands_count", 3.0),
        ("weir_wal_write_seconds_count", 3.0),
        ("weir_live_delivery_seconds_count", 1.0),
        ("weir_live_events_total", 2.0),
        ("weir_live_event_bytes_total", 6.0),
        ("weir_disk_free_bytes", 1.0),
        ("process_resident_memory_bytes", 1_000_000.0),
    ] {
        assert!(metric(&server, name) >= least, "{name}");
    }
    assert_eq!(metric(&server, "weir_append_seconds_count"), metric(&server, "weir_appends_total"));
}

#[test]
fn the_log_of_a_new_node_is_nearly_empty() {
    let server = on_disk().args(&["--shards", "1"]).start();
    let used = || metric(&server, "weir_wal_used_bytes");
    let empty = used();
    assert!(empty < 100_000.0, "{empty} bytes");
    assert!(metric(&server, "weir_wal_file_bytes") >= 4e6, "a segment is there");
    let mut client = server.client();
    create(&mut client, TARGET);
    append(&mut client, TARGET, &"x".repeat(500_000));
    assert!((500_000.0..700_000.0).contains(&(used() - empty)), "{}", used() - empty);
    assert!(used() < metric(&server, "weir_wal_used_bytes_max"));
}

#[test]
fn every_query_of_the_examples_finds_what_it_asks_for() {
    let server = on_disk().start();
    serve_something(&server);
    let samples = samples(&text(&server));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/monitoring");
    let file = |name: &str| std::fs::read_to_string(folder.join(name)).expect("an example");
    let rules = file("rules.yml");
    let rules = rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).map(str::to_string);
    let dashboard: serde_json::Value = serde_json::from_str(&file("dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let queries = targets.map(|target| target["expr"].as_str().expect("a query").to_string());
    let queries: Vec<String> = rules.chain(queries).collect();
    assert!(queries.len() > 50, "{} queries", queries.len());
    for query in &queries {
        check_query(query, &samples);
    }
}

/// Every metric that a query names is there, with every label that it asks for.
#[track_caller]
fn check_query(query: &str, samples: &[Sample]) {
    let (selectors, grouped) = parse(query);
    assert!(!selectors.is_empty(), "no metric in {query}");
    let mut has_label: BTreeSet<&str> = ADDED_LABELS.into();
    for (name, matchers) in selectors.iter().filter(|(name, _)| name != UP) {
        let mut found: Vec<&Sample> = samples.iter().filter(|sample| sample.name == *name).collect();
        for (label, is_equal, value) in matchers.iter().filter(|(label, ..)| !ADDED_LABELS.contains(&label.as_str())) {
            found.retain(|sample| sample.labels.get(label).is_some_and(|found| !is_equal || found == value));
        }
        assert!(!found.is_empty(), "nothing is {name}{matchers:?} for\n{query}");
        has_label.extend(found.iter().flat_map(|sample| sample.labels.keys()).map(String::as_str));
    }
    for label in &grouped {
        assert!(has_label.contains(label.as_str()), "no metric has the label {label} of\n{query}");
    }
}

/// A label, whether it must be equal to the value, and the value.
type Matcher = (String, bool, String);

/// The metrics of a query with what their labels are to be, and the labels that it groups by.
fn parse(query: &str) -> (Vec<(String, Vec<Matcher>)>, Vec<String>) {
    let (mut selectors, mut grouped, mut rest) = (Vec::new(), Vec::new(), query);
    while let Some(start) = rest.find(|c: char| c.is_ascii_alphabetic()) {
        let word_end = rest[start..].find(|c: char| !is_name_char(c)).map_or(rest.len(), |end| start + end);
        let (word, after) = (&rest[start..word_end], &rest[word_end..]);
        rest = match (word, after.trim_start().as_bytes().first()) {
            ("by" | "on", _) => {
                let (labels, after) = inside(after, '(', ')');
                grouped.extend(labels.split(',').map(|label| label.trim().to_string()));
                after
            }
            (_, Some(b'{')) => {
                let (matchers, after) = inside(after, '{', '}');
                selectors.push((word.to_string(), matchers.split(',').map(matcher).collect()));
                after
            }
            // A function, or an aggregation before its labels.
            (_, Some(b'(')) | ("sum" | "max" | "min", _) => after,
            _ => {
                selectors.push((word.to_string(), Vec::new()));
                after
            }
        };
        // What is in brackets is a time.
        if rest.starts_with('[') {
            rest = inside(rest, '[', ']').1;
        }
    }
    (selectors, grouped)
}

fn inside(text: &str, open: char, close: char) -> (&str, &str) {
    let (_, text) = text.split_once(open).expect("it opens");
    text.split_once(close).expect("it closes")
}

fn matcher(text: &str) -> Matcher {
    let at = text.find(['=', '!']).expect("a label is compared");
    let (label, comparison) = text.split_at(at);
    let (operator, value) = comparison.split_once('"').expect("a value is quoted");
    (label.trim().to_string(), operator == "=", value.trim_end_matches('"').to_string())
}

#[test]
fn a_query_is_taken_apart() {
    let query = r#"sum by (instance, le) (rate(a_bucket{le="0.1",x=~"y.*"}[5m])) / max(b) > 0.5"#;
    let (selectors, grouped) = parse(query);
    let matchers = [("le", true, "0.1"), ("x", false, "y.*")].map(|(l, e, v)| (l.to_string(), e, v.to_string()));
    assert_eq!(selectors, [("a_bucket".to_string(), matchers.to_vec()), ("b".to_string(), Vec::new())]);
    assert_eq!(grouped, ["instance", "le"]);
}

#[test]
fn requests_are_logged_when_it_is_asked_for() {
    let mut quiet = in_memory();
    let server = quiet.start();
    serve_something(&server);
    server.stop();
    assert!(!quiet.log().contains(TARGET), "{}", quiet.log());

    let mut setup = in_memory().env("WEIR_LOG_ACCESS", true);
    let server = setup.start();
    serve_something(&server);
    let lines_with = |parts: &[&str]| {
        let log = setup.log();
        log.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
    };
    let path = format!("path=\"{TARGET}\"");
    for (method, status, bytes, count) in
        [("PUT", "201", "0", 1), ("POST", "204", "0", 2), ("GET", "200", "6", 2), ("HEAD", "200", "0", 1)]
    {
        let (method, status, bytes) =
            (format!("method={method}"), format!("status={status}"), format!("bytes={bytes} "));
        let parts = [path.as_str(), &method, &status, &bytes, "milliseconds="];
        wait_until("the lines", || lines_with(&parts) == count);
    }
    // A live response has its line when it has ended, with what it has sent.
    let live = || setup.log().lines().filter(|line| line.contains(&path)).filter_map(bytes_of).any(|bytes| bytes > 200);
    wait_until("the line of the live read", live);
}

fn bytes_of(line: &str) -> Option<u64> {
    line.split_once("bytes=")?.1.split_once(' ')?.0.parse().ok()
}

/// Serves a little of everything that is counted.
fn serve_something(server: &Server) {
    let mut client = server.client();
    create(&mut client, TARGET);
    append(&mut client, TARGET, "one");
    let sse = Request::get(&format!("{TARGET}?offset=-1&live=sse"));
    let (mut events, _) = Events::open(server.address(), &sse).expect("a live read");
    let mut next_data = |data: &str| {
        while let Some(event) = events.next_event().expect("an event") {
            if event.kind == "data" {
                assert_eq!(event.data, data);
                return;
            }
        }
        panic!("the live read ended before {data}");
    };
    next_data("one");
    append(&mut client, TARGET, "two");
    next_data("two");
    assert_eq!(read(&mut client, TARGET), "onetwo");
    let _ = client.send(Request::get(&format!("{TARGET}?offset=-1&live=long-poll"))).expect(200);
    let _ = client.send(Request::get(&format!("{TARGET}?summary=none"))).expect(404);
    let _ = client.send(Request::head(TARGET)).expect(200);
    let _ = client.send(Request::delete("/watched/other")).expect(404);
    let _ = client.send(Request::post("/watched/other").body("text/plain", "x")).expect(404);
    let _ = client.send(Request::get("/watched/-/streams")).expect(200);
    wait_until("the live reader to ask for more", || metric(server, "weir_live_delivery_seconds_count") > 0.0);
    // The client of the live read leaves: what it was sent is logged then.
    drop(events);
}

fn text(server: &Server) -> String {
    Client::new(server.admin()).send(Request::get("/metrics")).expect(200).text()
}

fn samples(text: &str) -> Vec<Sample> {
    text.lines().filter(|line| !line.starts_with('#')).map(sample).collect()
}

fn sample(line: &str) -> Sample {
    let (series, value) = line.rsplit_once(' ').expect("a value");
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').expect("labels are closed")),
        None => (series, ""),
    };
    assert!(is_name(name), "{line}");
    let labels = labels.split(',').filter(|label| !label.is_empty()).map(|label| {
        let (label, value) = label.split_once('=').expect("a label has a value");
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).expect("it is quoted");
        (label.to_string(), value.to_string())
    });
    Sample { name: name.to_string(), labels: labels.collect(), value: value.parse().expect("a number") }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && text.chars().all(is_name_char)
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}
