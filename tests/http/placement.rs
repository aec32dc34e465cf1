//! Where a connection is served: it goes to where its first write belongs, and is answered as anywhere.

use std::time::Duration;

use weir_testkit::{Request, Server, Setup, metric, wait_until};

const SHARDS: usize = 2;
const ENDS_WITHIN: Duration = Duration::from_secs(10);

fn server() -> Server {
    Setup::new(env!("CARGO_BIN_EXE_weir")).args(&["--in-memory", "--shards", &SHARDS.to_string()]).start()
}

fn by_shard(server: &Server, name: &str) -> [f64; SHARDS] {
    std::array::from_fn(|shard| metric(server, &format!("{name}{{shard=\"{shard}\"}}")))
}

#[test]
fn a_connection_is_served_where_its_first_write_belongs() {
    let server = server();
    let mut owners = [0; SHARDS];
    for number in 0..16 {
        wait_until("the last connection has ended", ENDS_WITHIN, || {
            by_shard(&server, "weir_connections_open") == [0.0; SHARDS]
        });
        let target = format!("/b/{number}");
        let before = by_shard(&server, "weir_appends_total");
        let mut connection = server.connect();
        let create = Request::put(&target).header("Content-Type", "text/plain");
        let _ = connection.send(&create).expect("an answer").expect(201);
        let append = Request::post(&target).body("text/plain", "x".repeat(100_000));
        let _ = connection.send(&append).expect("an answer").expect(204);
        let after = by_shard(&server, "weir_appends_total");
        let owner = (0..SHARDS).find(|&shard| after[shard] > before[shard]).expect("it was appended somewhere");
        assert_eq!(by_shard(&server, "weir_connections_open")[owner], 1.0, "{target} is shard {owner}'s");
        owners[owner] += 1;
        // What belongs to the other shard is answered here too.
        for other in 0..8 {
            let _ = connection.send(&Request::head(&format!("/b/none-{other}"))).expect("an answer").expect(404);
        }
    }
    assert!(owners.iter().all(|&count| count > 0), "streams of both shards were tried: {owners:?}");
}

#[test]
fn writers_of_one_stream_are_not_all_on_its_shard() {
    let server = server();
    let mut client = server.client();
    let _ = client.send(Request::put("/b/s").header("Content-Type", "text/plain")).expect(201);
    let mut connections: Vec<_> = (0..40).map(|_| server.connect()).collect();
    for connection in &mut connections {
        let _ = connection.send(&Request::post("/b/s").body("text/plain", "x")).expect("an answer").expect(204);
    }
    let open = by_shard(&server, "weir_connections_open");
    assert!(open.iter().all(|&open| open >= 10.0), "{open:?}");
}
