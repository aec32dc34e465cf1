//! Random appends, restarts and rebindings: at every moment, `summary(offset)` is the fold of the records before it.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use weir_testkit::{Client, Request, Server, Setup};

use crate::{bind, create, on_disk, post, summary};

const STREAMS: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    /// Appends these messages in one request.
    Append { stream: usize, numbers: Vec<i32> },
    /// Reads a summary, at the tail that the last append was answered with.
    Look { stream: usize },
    /// Kills the server and starts it again.
    Restart,
    /// Removes the binding, makes it anew for the streams up to this one, or with another pattern for the same.
    Rebind { streams: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let numbers = vec(-1000..1000i32, 1..20);
    let step = prop_oneof![
        6 => (0..STREAMS, numbers).prop_map(|(stream, numbers)| Step::Append { stream, numbers }),
        6 => (0..STREAMS).prop_map(|stream| Step::Look { stream }),
        1 => Just(Step::Restart),
        2 => (0..=STREAMS).prop_map(|streams| Step::Rebind { streams }),
    ];
    vec(step, 1..60)
}

/// What `stats` makes of the messages, which are `{"a":n}`, as far as it does not depend on times. To the last bit: the mean
/// is taken step by step, as the module does it.
fn fold(numbers: &[i32]) -> Value {
    let bytes: usize = numbers.iter().map(|n| json!({ "a": n }).to_string().len()).sum();
    let mut fields = BTreeMap::new();
    let mut mean = 0.0;
    for (before, &n) in numbers.iter().enumerate() {
        let count = (before + 1) as f64;
        mean += f64::from(n) / count - mean / count;
    }
    if let (Some(min), Some(max)) = (numbers.iter().min(), numbers.iter().max()) {
        let field = json!({"count": numbers.len(), "min": f64::from(*min), "max": f64::from(*max), "mean": mean});
        fields.insert("a", field);
    }
    json!({"count": numbers.len(), "bytes": bytes, "fields": fields})
}

struct Run {
    setup: Setup,
    server: Option<Server>,
    client: Client,
    numbers: Vec<Vec<i32>>,
    tails: Vec<String>,
    /// The summary is bound to this many streams.
    bound: usize,
}

impl Run {
    fn new() -> Run {
        let mut setup = on_disk();
        let server = setup.start();
        let mut client = server.client();
        let target = |n| format!("/demo/s{n}");
        let tails = (0..STREAMS).map(|n| {
            create(&mut client, &target(n), "application/json");
            client.send(Request::head(&target(n))).expect(200).next_offset().to_owned()
        });
        let tails = tails.collect();
        Run { setup, server: Some(server), client, numbers: vec![Vec::new(); STREAMS], tails, bound: 0 }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Append { stream, numbers } => {
                let messages: Vec<Value> = numbers.iter().map(|n| json!({ "a": n })).collect();
                let appended = self.client.send(post(&format!("/demo/s{stream}"), json!(messages))).expect(204);
                self.tails[*stream] = appended.next_offset().to_owned();
                self.numbers[*stream].extend(numbers);
            }
            Step::Look { stream } => self.look(*stream),
            Step::Restart => {
                self.server.take().expect("it runs").kill();
                let server = self.setup.start();
                self.client = server.client();
                self.server = Some(server);
            }
            Step::Rebind { streams } => {
                for n in 0..STREAMS {
                    let name = format!("sum{n}");
                    let _ = self.client.send(Request::delete(&format!("/demo/-/bindings/{name}")));
                    if n < *streams {
                        let _ = self.client.send(bind(&name, "builtin:stats", "summary", &format!("s{n}"))).expect(201);
                    }
                }
                self.bound = *streams;
            }
        }
    }

    fn look(&mut self, stream: usize) {
        let query = format!("sum{stream}&offset={}", self.tails[stream]);
        let served = self.client.send(summary(&format!("/demo/s{stream}"), &query));
        if stream >= self.bound {
            assert_eq!(served.expect(404).code(), "binding_not_found");
            return;
        }
        let served = served.expect(200);
        assert_eq!(served.next_offset(), self.tails[stream]);
        let mut state = served.json();
        let object = state.as_object_mut().expect("an object");
        let times = (object.remove("first_time_ms"), object.remove("last_time_ms"));
        assert_eq!(times.0.is_some(), !self.numbers[stream].is_empty(), "{times:?}");
        assert!(times.0.and_then(|t| t.as_u64()) <= times.1.and_then(|t| t.as_u64()), "times rise");
        // Read back as the answer was: reading rounds the last bit of a float.
        let expected: Value = serde_json::from_str(&fold(&self.numbers[stream]).to_string()).expect("JSON");
        assert_eq!(state, expected);
    }
}

proptest! {
    // Each case starts a server, and restarts it a few times.
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, max_shrink_iters: 30, ..ProptestConfig::default() })]

    #[test]
    fn a_summary_is_the_fold_of_the_records_before_its_offset(steps in steps()) {
        let mut run = Run::new();
        run.step(&Step::Rebind { streams: STREAMS });
        for step in &steps {
            run.step(step);
        }
        for stream in 0..STREAMS {
            run.look(stream);
        }
    }
}
