//! What a fork has of its ancestors, and what a fork of a stream would have.

use weir_types::ReadFrom;

use crate::content_type;
use crate::fork::Ancestor;
use crate::reply::Expiry;
use crate::stream::Stream;

impl Stream {
    /// The streams that hold its bytes from `position` to [`Stream::begin`], in order.
    pub fn inherited_from(&self, position: u64) -> &[Ancestor] {
        let ancestors = self.fork().map_or(&[][..], |fork| &fork.ancestors);
        &ancestors[ancestors.partition_point(|ancestor| ancestor.upto <= position)..]
    }

    /// The streams that would hold what a fork of this one at the position `upto` inherits, without what comes before `base`.
    pub fn ancestors_upto(&self, base: u64, upto: u64) -> Vec<Ancestor> {
        let mut ancestors = Vec::new();
        for ancestor in self.inherited_from(base) {
            let begins = ancestors.last().map_or(base, |last: &Ancestor| last.upto);
            if begins < upto {
                ancestors.push(Ancestor { upto: ancestor.upto.min(upto), ..ancestor.clone() });
            }
        }
        if self.begin().max(base) < upto {
            ancestors.push(Ancestor { key: self.key.clone(), incarnation: self.incarnation(), upto });
        }
        ancestors
    }

    /// Whether a request for a fork with this configuration finds the stream as it was asked for. What is `None` was left to the
    /// source.
    pub fn is_forked_as(
        &self,
        (source, from, sub_offset): (&str, ReadFrom, u64),
        content_type: Option<&str>,
        expiry: Option<Expiry>,
        closed: bool,
    ) -> bool {
        let Some(fork) = self.fork() else { return false };
        fork.is_of(source, from, sub_offset, self.offset(fork.anchor))
            && content_type.is_none_or(|sent| content_type::same(&self.content_type, sent))
            && expiry.map_or(fork.inherits_expiry, |expiry| expiry == self.expiry())
            && self.is_closed() == closed
    }
}
