//! Each group's leader tells the leader of group 0 for which subscriptions something is new: at once when a stream comes to have more than
//! was processed, and again and again while it has, so that nothing is missed where another one leads, or mail was lost.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::core::Core;
use crate::message::Request;
use crate::subscriptions::desk::Place;
use crate::write::job::LocalGroup;

/// How often all that is pending is said again.
const REPEAT_INTERVAL: Duration = Duration::from_secs(2);

/// Reports of one group. Runs for the shard's life.
pub(crate) async fn run(core: Rc<Core>, group: Rc<LocalGroup>) {
    let mut repeat_at = Instant::now() + REPEAT_INTERVAL;
    loop {
        // However much is new, all is said again when it is time.
        let is_news = timeout_at(repeat_at, group.pending.rung()).await.is_ok() && Instant::now() < repeat_at;
        if !is_news {
            repeat_at = Instant::now() + REPEAT_INTERVAL;
        }
        let Some(places) = places(&group, is_news) else { continue };
        if places.is_empty() {
            continue;
        }
        if let Err(error) = core.request(Request::PendingNews(places)).await
            && !group.has_failed()
        {
            tracing::debug!(group = group.id.0, %error, "what is new for subscriptions could not be said");
        }
    }
}

fn places(group: &LocalGroup, is_news: bool) -> Option<Vec<Place>> {
    group.leading().ok()?;
    let news = group.take_pending_news();
    Some(if is_news { news } else { group.applied().pending_subscriptions().collect() })
}
