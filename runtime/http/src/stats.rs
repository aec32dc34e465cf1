//! What one shard's connections have asked for and been sent: counted by its thread, looked at by everybody.
//!
//! What hyper answers itself, because it cannot be read as a request, is not among it.

use http::StatusCode;
use weir_types::Counter;

/// Statuses have three digits, of which the first is 1 to 5.
const STATUS_MIN: u16 = 100;
const STATUSES: usize = 500;

/// What a request is for, as far as figures tell requests apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Appends to a stream, or closes it.
    Append,
    /// Creates a stream.
    Create,
    /// Reads a page of a stream.
    Read,
    /// Waits for the next page.
    LongPoll,
    /// Follows a stream.
    Sse,
    /// Reads or follows a summary.
    Summary,
    /// Asks how a stream is.
    Head,
    /// Deletes a stream.
    Delete,
    /// Whatever is not about one stream: buckets, modules, bindings, preflights, and what cannot be understood.
    Other,
}

impl Route {
    const ALL: [Route; 9] = [
        Route::Append,
        Route::Create,
        Route::Read,
        Route::LongPoll,
        Route::Sse,
        Route::Summary,
        Route::Head,
        Route::Delete,
        Route::Other,
    ];

    /// Its name in figures.
    pub fn name(self) -> &'static str {
        match self {
            Route::Append => "append",
            Route::Create => "create",
            Route::Read => "read",
            Route::LongPoll => "long_poll",
            Route::Sse => "sse",
            Route::Summary => "summary",
            Route::Head => "head",
            Route::Delete => "delete",
            Route::Other => "other",
        }
    }
}

/// The counters of one shard. Only its thread counts.
#[derive(Debug)]
pub struct HttpStats {
    /// By route, and then by status.
    requests: Box<[Counter]>,
    /// Events that were made for live readers.
    pub live_events: Counter,
    /// Bytes of records and of views in them.
    pub live_event_bytes: Counter,
}

impl Default for HttpStats {
    fn default() -> HttpStats {
        let requests = (0..Route::ALL.len() * STATUSES).map(|_| Counter::default()).collect();
        HttpStats { requests, live_events: Counter::default(), live_event_bytes: Counter::default() }
    }
}

impl HttpStats {
    /// Counts a request that is answered.
    pub(crate) fn count_request(&self, route: Route, status: StatusCode) {
        let status = usize::from(status.as_u16() - STATUS_MIN).min(STATUSES - 1);
        self.requests[route as usize * STATUSES + status].add(1);
    }

    /// Counts an event that is made for one live reader, with so many bytes.
    pub(crate) fn count_event(&self, bytes: usize) {
        self.live_events.add(1);
        self.live_event_bytes.add(bytes as u64);
    }

    /// The requests of each route and status, where there were any.
    pub fn requests(&self) -> impl Iterator<Item = (Route, u16, u64)> {
        let of_route = |(route, counts): (Route, &'_ [Counter])| {
            let counts: Vec<u64> = counts.iter().map(Counter::get).collect();
            let counted = (STATUS_MIN..).zip(counts).filter(|(_, count)| *count > 0);
            counted.map(move |(status, count)| (route, status, count))
        };
        Route::ALL.into_iter().zip(self.requests.chunks(STATUSES)).flat_map(of_route)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_route_and_status() {
        let stats = HttpStats::default();
        for (route, status) in [(Route::Append, 204), (Route::Other, 404), (Route::Append, 204), (Route::Read, 507)] {
            stats.count_request(route, StatusCode::from_u16(status).expect("a status"));
        }
        stats.count_request(Route::Other, StatusCode::from_u16(999).expect("a number of three digits"));
        let counted: Vec<_> = stats.requests().map(|(route, status, count)| (route.name(), status, count)).collect();
        assert_eq!(counted, [("append", 204, 2), ("read", 507, 1), ("other", 404, 1), ("other", 599, 1)]);
    }
}
