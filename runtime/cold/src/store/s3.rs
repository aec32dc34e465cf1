//! Objects of an S3 bucket, or of a server that speaks like one.

use std::error::Error as _;
use std::future::Future;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, TryStreamExt};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, GetOptions, ObjectStore, ObjectStoreExt, RetryConfig};

use super::{ChunkStore, StoreError};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a reader waits for a block, with all tries.
const GET_TIMEOUT: Duration = Duration::from_secs(20);
/// How long one try of anything may take, the longest of all being a put over a thin line.
const TRY_TIMEOUT: Duration = Duration::from_secs(150);
/// How long a delete may take, or a put of next to nothing, with all tries.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes per second that a put goes at, at least.
const PUT_RATE: u64 = 128 << 10;
/// How long it may take to list all objects.
const LIST_TIMEOUT: Duration = Duration::from_secs(600);
/// Tries after the first, for what is worth another try.
const RETRIES: usize = 5;
/// The longest pause between two tries.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// What is told of an error, at most: a store may answer with a page of HTML.
const REASON_CHARS_MAX: usize = 300;

/// Where a bucket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Location {
    /// The bucket.
    pub bucket: String,
    /// What the names of all objects begin with, without a slash at its ends; empty for none.
    pub prefix: String,
    /// The server's address, `https://host:port`; empty for Amazon's.
    pub endpoint: String,
    /// The region; empty for what the environment says, or else `us-east-1`.
    pub region: String,
    /// Whether the connection may go without TLS.
    pub allow_http: bool,
}

impl S3Location {
    /// Bucket and prefix of `s3://bucket/prefix`; `None` for anything else.
    pub fn parse(url: &str) -> Option<(&str, &str)> {
        let (bucket, prefix) = url.strip_prefix("s3://")?.split_once('/').unwrap_or((&url["s3://".len()..], ""));
        let prefix = prefix.trim_end_matches('/');
        (!bucket.is_empty() && !prefix.starts_with('/') && Path::parse(prefix).is_ok()).then_some((bucket, prefix))
    }
}

/// A bucket, or what of it begins with a prefix.
#[derive(Debug)]
pub struct S3Store {
    store: AmazonS3,
    prefix: Path,
}

impl S3Store {
    /// The bucket at `location`, with the credentials that the environment (`AWS_ACCESS_KEY_ID` and its like) or the platform
    /// has. Asks nobody anything yet.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when the location makes no sense.
    pub fn new(location: &S3Location) -> Result<S3Store, StoreError> {
        let failed = |error: object_store::Error| StoreError::Failed(reason(&error));
        let options = ClientOptions::new().with_connect_timeout(CONNECT_TIMEOUT).with_timeout(TRY_TIMEOUT);
        let backoff = BackoffConfig { max_backoff: BACKOFF_MAX, ..BackoffConfig::default() };
        let mut builder = AmazonS3Builder::from_env()
            .with_client_options(options)
            .with_allow_http(location.allow_http)
            .with_retry(RetryConfig { backoff, max_retries: RETRIES, retry_timeout: TRY_TIMEOUT })
            .with_bucket_name(&location.bucket);
        if !location.endpoint.is_empty() {
            builder = builder.with_endpoint(&location.endpoint).with_virtual_hosted_style_request(false);
        }
        if !location.region.is_empty() {
            builder = builder.with_region(&location.region);
        }
        let prefix = Path::parse(&location.prefix).map_err(|error| failed(error.into()))?;
        Ok(S3Store { store: builder.build().map_err(failed)?, prefix })
    }

    fn path(&self, object: &str) -> Path {
        self.prefix.clone().join(object)
    }

    /// What an object directly behind the prefix is called.
    fn name_of(&self, path: &Path) -> Option<String> {
        let mut parts = path.prefix_match(&self.prefix)?;
        let name = parts.next()?.as_ref().to_string();
        parts.next().is_none().then_some(name)
    }

    /// Reads a range; what lies behind the object's end is left out.
    async fn get_range(&self, path: &Path, range: Range<u64>) -> Result<Bytes, object_store::Error> {
        let options = GetOptions::new().with_range(Some(range.clone()));
        let read = async { self.store.get_opts(path, options).await?.bytes().await };
        match read.await {
            // An object that ends before the range is refused as if the store had failed.
            Err(error @ object_store::Error::Generic { .. }) => match self.store.head(path).await {
                Ok(found) if found.size <= range.start => Ok(Bytes::new()),
                _ => Err(error),
            },
            read => read,
        }
    }
}

impl ChunkStore for S3Store {
    fn put<'a>(&'a self, object: &'a str, bytes: Bytes) -> BoxFuture<'a, Result<(), StoreError>> {
        let path = self.path(object);
        let timeout = CHANGE_TIMEOUT + Duration::from_secs(bytes.len() as u64 / PUT_RATE);
        within(timeout, object, async move { self.store.put(&path, bytes.into()).await.map(drop) })
    }

    fn get<'a>(&'a self, object: &'a str, range: Range<u64>) -> BoxFuture<'a, Result<Bytes, StoreError>> {
        let path = self.path(object);
        within(GET_TIMEOUT, object, async move { self.get_range(&path, range).await })
    }

    fn delete<'a>(&'a self, object: &'a str) -> BoxFuture<'a, Result<(), StoreError>> {
        let path = self.path(object);
        within(CHANGE_TIMEOUT, object, async move {
            match self.store.delete(&path).await {
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                done => done,
            }
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<(String, u64)>, StoreError>> {
        let work = async move {
            let found: Vec<_> = self.store.list(Some(&self.prefix)).try_collect().await?;
            // Objects further down are not ours.
            Ok(found.iter().filter_map(|found| Some((self.name_of(&found.location)?, found.size))).collect())
        };
        within(LIST_TIMEOUT, "", work)
    }
}

/// What comes of `work` on `object` within `timeout`.
fn within<'a, T: 'a>(
    timeout: Duration,
    object: &'a str,
    work: impl Future<Output = Result<T, object_store::Error>> + Send + 'a,
) -> BoxFuture<'a, Result<T, StoreError>> {
    async move {
        match tokio::time::timeout(timeout, work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error @ object_store::Error::NotFound { .. })) => Err(match reason(&error) {
                reason if reason.contains("NoSuchBucket") => StoreError::NoBucket,
                _ => StoreError::Missing(object.to_string()),
            }),
            Ok(Err(
                error @ (object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }),
            )) => Err(StoreError::Denied(reason(&error))),
            Ok(Err(error)) => Err(StoreError::Failed(reason(&error))),
            Err(_) => Err(StoreError::Failed(format!("no answer within {} s", timeout.as_secs()))),
        }
    }
    .boxed()
}

/// An error and its causes, each told once, without what is too long for a line.
fn reason(error: &object_store::Error) -> String {
    let mut reason = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !reason.contains(&text) {
            reason = format!("{reason}: {text}");
        }
        cause = error.source();
    }
    let line = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(REASON_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_bucket_and_perhaps_a_prefix() {
        assert_eq!(S3Location::parse("s3://b"), Some(("b", "")));
        assert_eq!(S3Location::parse("s3://b/"), Some(("b", "")));
        assert_eq!(S3Location::parse("s3://b/a/c/"), Some(("b", "a/c")));
        for other in ["s3://", "s3:///a", "s3:b", "b", "gs://b", "s3://b//a", "s3://b/../a", ""] {
            assert_eq!(S3Location::parse(other), None, "{other}");
        }
    }
}
