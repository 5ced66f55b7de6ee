//! Blocks in order, from a start on, as fast as the reader takes them.
//!
//! The stream is pulled: nothing is read before the connection has room for it, so a slow reader costs a few
//! blocks of memory; one that takes nothing at all is ended (`crate::clients::stall`). It waits at the tip for the next block, and ends when the last block asked for was
//! given, or with a status that says why it cannot go on.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use consensus_core::ledger;
use consensus_proto::ordering::deliver_request::From;
use consensus_proto::ordering::{Block, DeliverRequest};
use futures_util::{Stream, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::answer::{Directory, stopping};
use super::encode;
use crate::application::ledger::{LedgerHandle, Tip};
use crate::clients::stall::Progress;
use crate::config::DELIVER_AHEAD_BYTES_MAX;
use crate::telemetry::metrics::OrderingMetrics;

/// Blocks read ahead for one stream.
const AHEAD_BLOCKS_MAX: u64 = 64;

/// A stream of blocks.
pub(super) type Blocks = Pin<Box<dyn Stream<Item = Result<Block, Status>> + Send>>;

/// The first and the last block that a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Range {
    first: u64,
    last: u64,
}

/// What a request means while the tip is at `tip`.
fn range(request: &DeliverRequest, tip: u64) -> Result<Range, Status> {
    let from = From::try_from(request.from).map_err(|_| {
        Status::invalid_argument(format!(
            "from {} is unknown, must be at most {}",
            request.from,
            From::Live as i32
        ))
    })?;
    if request.number != 0 && from != From::Number {
        let what = format!("number is {}, which only FROM_NUMBER reads", request.number);
        return Err(Status::invalid_argument(what));
    }
    let next = tip + 1;
    let first = match from {
        From::Unspecified | From::Oldest => 1,
        From::Newest => tip.max(1),
        From::Live => next,
        From::Number if request.number == 0 => {
            return Err(Status::invalid_argument("number is 0, the first block is 1"));
        }
        From::Number if request.number > next => {
            let number = request.number;
            return Err(Status::not_found(format!("block {number} is beyond the next one, {next}")));
        }
        From::Number => request.number,
    };
    let last = if request.to == 0 { u64::MAX } else { request.to };
    if last < first {
        return Err(Status::invalid_argument(format!(
            "to is {last}, which is before the first block, {first}"
        )));
    }
    Ok(Range { first, last })
}

/// The blocks that a request asks for.
///
/// # Errors
/// What is wrong with the request.
pub(super) fn deliver(
    request: &DeliverRequest,
    ledger: LedgerHandle,
    directory: Directory,
    metrics: OrderingMetrics,
    progress: Arc<Progress>,
    stop: CancellationToken,
) -> Result<Blocks, Status> {
    let tip = ledger.watch_tip();
    let Range { first, last } = range(request, tip.borrow().height)?;
    metrics.deliver_began();
    let reader = Reader {
        ledger,
        directory,
        metrics,
        progress,
        stop,
        tip,
        ahead: VecDeque::new(),
        next: first,
        last,
        waits: !request.fail_if_not_ready,
        headers_only: request.headers_only,
    };
    let blocks = stream::try_unfold(reader, |mut reader| async move {
        let block = reader.next().await?;
        Ok(block.map(|block| (block, reader)))
    });
    Ok(Box::pin(blocks))
}

/// One stream's position.
struct Reader {
    ledger: LedgerHandle,
    directory: Directory,
    metrics: OrderingMetrics,
    progress: Arc<Progress>,
    stop: CancellationToken,
    tip: watch::Receiver<Tip>,
    ahead: VecDeque<Arc<ledger::Block>>,
    next: u64,
    last: u64,
    waits: bool,
    headers_only: bool,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Block>, Status> {
        if self.next > self.last {
            return Ok(None);
        }
        if self.progress.is_stalled() {
            let what = "the reader took nothing for longer than limits.deliver_stall_ms: ask again from the next block";
            return Err(Status::resource_exhausted(what));
        }
        if self.ahead.is_empty() {
            self.reach().await?;
            self.read_ahead().await?;
        }
        if self.stop.is_cancelled() {
            return Err(stopping());
        }
        let Some(block) = self.ahead.pop_front() else {
            return Err(Status::data_loss(format!("block {} is not kept on this node", self.next)));
        };
        self.next += 1;
        self.metrics.delivered();
        Ok(Some(encode::block(&block, self.headers_only)))
    }

    /// Waits until the next block is there.
    async fn reach(&mut self) -> Result<(), Status> {
        let number = self.next;
        if self.tip.borrow().height >= number {
            return Ok(());
        }
        if !self.waits {
            return Err(Status::not_found(format!("block {number} is not there yet")));
        }
        tokio::select! {
            () = self.stop.cancelled() => Err(stopping()),
            reached = self.tip.wait_for(|tip| tip.height >= number) => reached.map(|_| ()).map_err(|_| stopping()),
        }
    }

    async fn read_ahead(&mut self) -> Result<(), Status> {
        let end = self.next.saturating_add(AHEAD_BLOCKS_MAX).min(self.last.saturating_add(1));
        let blocks = self.ledger.blocks(self.next..end, DELIVER_AHEAD_BYTES_MAX).await;
        self.ahead = blocks.map_err(|error| self.directory.ledger_error(&error))?.into();
        Ok(())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.metrics.deliver_ended();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seek(from: From, number: u64, to: u64) -> DeliverRequest {
        DeliverRequest { from: from.into(), number, to, ..DeliverRequest::default() }
    }

    #[test]
    fn every_seek_has_one_meaning() {
        let forever = u64::MAX;
        // (from, number, to, tip) -> first and last block
        for (from, number, to, tip, first, last) in [
            (From::Unspecified, 0, 0, 5, 1, forever),
            (From::Oldest, 0, 0, 0, 1, forever),
            (From::Oldest, 0, 3, 5, 1, 3),
            (From::Newest, 0, 0, 5, 5, forever),
            (From::Newest, 0, 5, 5, 5, 5),
            (From::Newest, 0, 0, 0, 1, forever),
            (From::Number, 5, 5, 5, 5, 5),
            (From::Number, 6, 0, 5, 6, forever),
            (From::Number, 1, 0, 0, 1, forever),
            (From::Live, 0, 0, 5, 6, forever),
            (From::Live, 0, 9, 5, 6, 9),
        ] {
            let found = range(&seek(from, number, to), tip).map_err(|status| status.message().to_owned());
            assert_eq!(found, Ok(Range { first, last }), "{from:?} number {number} to {to} at tip {tip}");
        }
    }

    #[test]
    fn a_seek_that_makes_no_sense_is_refused_with_its_reason() {
        for (request, tip, code, words) in [
            (seek(From::Number, 0, 0), 5, tonic::Code::InvalidArgument, "number is 0, the first block is 1"),
            (seek(From::Number, 7, 0), 5, tonic::Code::NotFound, "block 7 is beyond the next one, 6"),
            (
                seek(From::Number, 4, 3),
                5,
                tonic::Code::InvalidArgument,
                "to is 3, which is before the first block, 4",
            ),
            (
                seek(From::Newest, 0, 4),
                5,
                tonic::Code::InvalidArgument,
                "to is 4, which is before the first block, 5",
            ),
            (
                seek(From::Live, 0, 5),
                5,
                tonic::Code::InvalidArgument,
                "to is 5, which is before the first block, 6",
            ),
            (
                seek(From::Oldest, 3, 0),
                5,
                tonic::Code::InvalidArgument,
                "number is 3, which only FROM_NUMBER reads",
            ),
            (
                DeliverRequest { from: 9, ..DeliverRequest::default() },
                5,
                tonic::Code::InvalidArgument,
                "from 9 is unknown, must be at most 4",
            ),
        ] {
            let status = range(&request, tip).expect_err(words);
            assert_eq!((status.code(), status.message()), (code, words));
        }
    }
}
