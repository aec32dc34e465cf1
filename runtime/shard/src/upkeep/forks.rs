//! What a group's leader owes to forks: it tells sources which of its forks are gone, and finds out about pins whose forks may never
//! have come to be. Either may have been interrupted at any point before; doing it again changes nothing.

use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use weir_stream::{Command, KeyRef, Release, Unsettled};
use weir_types::{Incarnation, StreamKey};

use crate::core::Core;
use crate::message::{Answer, Request, ShardError};
use crate::write::job::LocalGroup;

/// How often it is looked what is to be done.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How long what could not be done rests.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// As many are done at a time: they share rounds.
const AT_A_TIME: usize = 64;

/// Releases and settles pins. Runs for the shard's life.
pub(crate) async fn run(core: Rc<Core>, group: Rc<LocalGroup>) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let (mut behind, mut refused) = (Behind::default(), None);
        while group.leading().is_ok() && look(&core, &group, &mut behind, &mut refused).await {}
        if let Some(error) = refused {
            if !group.has_failed() {
                tracing::debug!(group = group.id.0, %error, "forks and their sources wait for each other");
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }
}

/// What was tried already: what cannot be done must not hold up the rest.
#[derive(Default)]
struct Behind {
    release: Option<Incarnation>,
    pin: Option<(u64, Incarnation)>,
}

/// Tries some of what is to be done and was not tried yet, and says whether there was any; what stands in the way is `refused`.
async fn look(core: &Rc<Core>, group: &LocalGroup, behind: &mut Behind, refused: &mut Option<ShardError>) -> bool {
    let (releases, pins): (Vec<_>, Vec<_>) = {
        let state = group.applied();
        let now_ms = core.clock.now_ms();
        let releases = state.releases().skip_while(|(fork, _)| Some(*fork) <= behind.release);
        let pins =
            state.unsettled_pins(now_ms).skip_while(|(fork, until_ms, _)| Some((*until_ms, *fork)) <= behind.pin);
        (
            releases.take(AT_A_TIME).map(|(fork, release)| (fork, release.clone())).collect(),
            pins.take(AT_A_TIME).map(|(fork, until_ms, pin)| (fork, until_ms, pin.clone())).collect(),
        )
    };
    behind.release = releases.last().map(|(fork, _)| *fork).or(behind.release);
    behind.pin = pins.last().map(|(fork, until_ms, _)| (*until_ms, *fork)).or(behind.pin);
    let is_some = !releases.is_empty() || !pins.is_empty();
    let releases = releases.into_iter().map(|(fork, of)| release(core, group, fork, of));
    let pins = pins.into_iter().map(|(fork, until_ms, pin)| settle(core, group, fork, until_ms, pin));
    let (released, settled) = tokio::join!(join_all(releases), join_all(pins));
    if let Some(error) = released.into_iter().chain(settled).find_map(Result::err) {
        *refused = Some(error);
    }
    is_some
}

/// Tells a source that a fork of this group needs it no longer, or no bytes of it.
async fn release(
    core: &Rc<Core>,
    group: &LocalGroup,
    fork: Incarnation,
    Release { source, source_incarnation, keeps_pin }: Release,
) -> Result<(), ShardError> {
    let key = StreamKey::parse(&source).expect("keys were checked when their request came");
    core.request(Request::Unpin { key, incarnation: source_incarnation, fork, keeps_pin }).await?;
    group.command(&Command::ForkReleased { incarnation: fork, keeps_pin }).await.map(|_| ())
}

/// Finds out whether the fork is there that a stream of this group is pinned for.
async fn settle(
    core: &Rc<Core>,
    group: &LocalGroup,
    fork: Incarnation,
    until_ms: u64,
    pin: Unsettled,
) -> Result<(), ShardError> {
    let parse = |key: &str| StreamKey::parse(key).expect("keys were checked when their request came");
    let (source, fork_key) = (parse(&pin.source), parse(&pin.fork));
    let request = Request::ForkDecide { key: fork_key, incarnation: fork, until_ms };
    let (key, incarnation) = (KeyRef::from(&source), pin.source_incarnation);
    let settled = match core.request(request).await? {
        Answer::ForkDecided { is_there: true } => Command::PinSettle { key, incarnation, fork },
        Answer::ForkDecided { is_there: false } => Command::Unpin { key, incarnation, fork, keeps_pin: false },
        _ => unreachable!("it is answered with what is decided"),
    };
    group.command(&settled).await.map(|_| ())
}
