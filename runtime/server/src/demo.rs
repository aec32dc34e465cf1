//! `weir serve --demo`: a bucket whose streams of orders are checked by one ready-made module and summed up by another,
//! and what to type to see it.

use std::net::SocketAddr;

use weir_shard::{BindingRequest, Shard, ShardError};
use weir_stream::Pattern;
use weir_types::{BucketName, ModuleName, Role};

const BUCKET: &str = "demo";

/// Of both bindings.
const STREAMS: &str = "orders/**";

/// What an order must be.
const SCHEMA: &str = r#"{"type":"object","required":["sku","qty"],"properties":{"sku":{"type":"string"},"qty":{"type":"integer","minimum":1}}}"#;

/// Makes the bucket and its bindings as far as they are not there. What is there is left as it is: its owner may have
/// changed it since.
///
/// # Errors
/// Whatever the shard says, most likely of a module that cannot be compiled here.
pub(crate) async fn set_up(shard: &Shard) -> Result<(), ShardError> {
    let bucket = BucketName::new(BUCKET).expect("it is a name");
    shard.bucket_create(bucket.clone(), None).await?;
    for binding in bindings() {
        match shard.binding(bucket.clone(), binding.name.clone()).await {
            Ok(_) => {}
            Err(ShardError::BindingUnknown(_)) => {
                tracing::info!(module = %binding.module, "compiling a module for the demo; this takes a few seconds, once");
                shard.binding_put(bucket.clone(), binding).await?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn bindings() -> [BindingRequest; 2] {
    let binding = |name, module: &str, role, config: &str| BindingRequest {
        name: ModuleName::new(name).expect("it is a name"),
        streams: Pattern::new(STREAMS).expect("it is a pattern"),
        module: module.into(),
        role,
        config: config.into(),
    };
    [
        binding("checked", "builtin:json-schema", Role::Validator, SCHEMA),
        binding("totals", "builtin:stats", Role::Summary, "null"),
    ]
}

/// What to try on the public listener at `address`: a remark and a command in turn.
pub(crate) fn commands(address: SocketAddr) -> String {
    let url = format!("http://{address}/{BUCKET}/orders/today");
    let json = "-H 'Content-Type: application/json'";
    format!(
        "\
The demo is ready. In another shell:

# A stream of orders
curl -i -X PUT {url} {json}
# An order, and one that the JSON Schema does not allow
curl -i {url} {json} -d '{{\"sku\":\"tea\",\"qty\":2}}'
curl -i {url} {json} -d '{{\"sku\":\"tea\",\"qty\":0}}'
# What the orders come to, now and after each further one
curl -i '{url}?summary=totals'
curl -N '{url}?summary=totals&live=sse'

"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_asks_for_modules_that_the_server_carries() {
        for binding in bindings() {
            let name = binding.module.strip_prefix(weir_stream::BUILTIN_PREFIX).expect("a ready-made module");
            assert!(crate::builtins::BUILTINS.iter().any(|builtin| builtin.name == name), "{name}");
            serde_json::from_str::<serde_json::Value>(&binding.config).expect("a configuration is JSON");
        }
    }

    #[test]
    fn its_commands_ask_where_the_server_listens() {
        let commands = commands(SocketAddr::from(([127, 0, 0, 1], 7)));
        let curls: Vec<&str> = commands.lines().filter(|line| line.starts_with("curl ")).collect();
        assert_eq!(curls.len(), 5);
        assert!(curls.iter().all(|line| line.contains("http://127.0.0.1:7/demo/orders/today")), "{commands}");
    }
}
