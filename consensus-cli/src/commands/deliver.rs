//! `deliver`: blocks in order, each checked before it is shown.
//!
//! What is checked: the block's hash is that of its header, the header's data hash is that of the
//! transactions (unless only headers are asked for), and the previous hash is the hash of the block shown
//! before. The first block that fails ends the command with a finding. With `--follow` a lost stream is
//! opened again at the next node, right behind the last block shown, so the output has neither gap nor
//! repetition, and a node with another history is noticed.

use std::io::Write;
use std::time::Duration;

use anyhow::bail;
use consensus_core::ids::Hash;
use consensus_core::ledger::{HashRule, Header};
use consensus_proto::ordering::{Block, DeliverRequest, TipRequest, deliver_request};
use tokio::time::sleep;
use tonic::{Code, Status};

use crate::args::{DeliverArgs, From};
use crate::commands::block;
use crate::output::{Verdict, json};
use crate::remote::{Access, NoAnswer, Node, first_answer, request};

/// Pause before a lost stream is opened again.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);

/// Runs the command.
///
/// # Errors
/// If no node answers or, without `--follow`, the stream is lost.
pub(crate) async fn run(args: DeliverArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    if let (From::Height(from), Some(to)) = (args.from, args.to)
        && from > to
    {
        bail!("--from is {from}, which is after --to {to}");
    }
    let follow = args.follow || (args.from == From::Live && args.to.is_none());
    let access = Access::new(&args.nodes.tls)?;
    let mut delivery = Delivery { args, access, follow, to: 0, last: None };
    delivery.to = match delivery.args.to {
        Some(height) => height,
        None if follow => 0,
        None => match delivery.tip().await? {
            0 => return Ok(Verdict::Fine),
            height => height,
        },
    };
    if !follow && delivery.args.from == From::Newest && delivery.args.to.is_none() {
        delivery.args.from = From::Height(delivery.to);
    }
    loop {
        let (node, status) = match delivery.stream(out).await {
            Ok(StreamEnd::Complete) => return Ok(Verdict::Fine),
            Ok(StreamEnd::Finding(finding)) => {
                out.flush()?;
                eprintln!("{finding}");
                return Ok(Verdict::Finding);
            }
            Ok(StreamEnd::Lost(node, status)) => (node, status),
            Err(error) if delivery.follow && delivery.last.is_some() && !crate::is_broken_pipe(&error) => {
                eprintln!("{error:#}; trying again");
                sleep(REOPEN_PAUSE).await;
                continue;
            }
            Err(error) => return Err(error),
        };
        let error = node.explain(&status);
        if status.code() == Code::NotFound {
            eprintln!("{error:#}");
            return Ok(Verdict::Finding);
        }
        if !delivery.follow {
            return Err(error);
        }
        out.flush()?;
        eprintln!("{error:#}; trying again");
        delivery.args.nodes.nodes.rotate_left(1);
        sleep(REOPEN_PAUSE).await;
    }
}

/// How a stream ended.
enum StreamEnd {
    /// The last block asked for was shown.
    Complete,
    /// A block does not hold.
    Finding(String),
    /// The node ended it.
    Lost(Node, Status),
}

struct Delivery {
    args: DeliverArgs,
    access: Access,
    follow: bool,
    /// Last height; 0: for ever.
    to: u64,
    /// Height and hash of the last block shown.
    last: Option<(u64, Hash)>,
}

impl Delivery {
    async fn tip(&self) -> anyhow::Result<u64> {
        let timeout = self.args.nodes.timeout;
        let (_, tip) = first_answer(&self.access, &self.args.nodes.nodes, timeout, async |node| {
            Ok(node.ordering().tip(request(TipRequest::default(), timeout)).await?.into_inner())
        })
        .await
        .map_err(NoAnswer::into_error)?;
        Ok(tip.height)
    }

    fn wanted(&self) -> DeliverRequest {
        use deliver_request::From as Start;
        let (from, number) = match (self.last, self.args.from) {
            (Some((height, _)), _) => (Start::Number, height + 1),
            (None, From::Oldest) => (Start::Oldest, 0),
            (None, From::Newest) => (Start::Newest, 0),
            (None, From::Live) => (Start::Live, 0),
            (None, From::Height(height)) => (Start::Number, height),
        };
        DeliverRequest {
            from: from.into(),
            number,
            to: self.to,
            fail_if_not_ready: false,
            headers_only: self.args.headers_only,
        }
    }

    async fn stream(&mut self, out: &mut dyn Write) -> anyhow::Result<StreamEnd> {
        if let (From::Height(from), None, true) = (self.args.from, self.last, self.to > 0)
            && from > self.to
        {
            return Ok(StreamEnd::Finding(format!("block {from} is beyond the tip at {}", self.to)));
        }
        let timeout = self.args.nodes.timeout;
        let wanted = self.wanted();
        let (node, mut blocks) = first_answer(&self.access, &self.args.nodes.nodes, timeout, async |node| {
            let opening = tokio::time::timeout(timeout, async { node.ordering().deliver(wanted).await });
            opening
                .await
                .map_err(|_| Status::deadline_exceeded("no answer in time"))?
                .map(tonic::Response::into_inner)
        })
        .await
        .map_err(NoAnswer::into_error)?;
        loop {
            let block = match blocks.message().await {
                Ok(Some(block)) => block,
                Ok(None) if self.to > 0 && self.last.is_some_and(|(height, _)| height >= self.to) => {
                    return Ok(StreamEnd::Complete);
                }
                Ok(None) => return Ok(StreamEnd::Lost(node, Status::unavailable("ended the stream"))),
                Err(status) => return Ok(StreamEnd::Lost(node, status)),
            };
            match check(&block, self.last, self.args.headers_only) {
                Ok((height, hash)) => self.last = Some((height, hash)),
                Err(finding) => return Ok(StreamEnd::Finding(format!("{}: {finding}", node.address))),
            }
            self.show(out, &block)?;
        }
    }

    fn show(&self, out: &mut dyn Write, block: &Block) -> anyhow::Result<()> {
        let view = json::Block::delivered(block, self.args.headers_only, !self.args.no_payloads);
        if self.args.nodes.json {
            json::line(out, &view)?;
        } else {
            block::print(out, &view)?;
        }
        if self.follow {
            out.flush()?;
        }
        Ok(())
    }
}

/// Height and hash of a block that holds and follows `last`.
fn check(block: &Block, last: Option<(u64, Hash)>, headers_only: bool) -> Result<(u64, Hash), String> {
    let header =
        block.header.as_ref().and_then(Header::from_record).ok_or("a block without a valid header")?;
    let number = header.number;
    let rule = HashRule::default();
    let hash = rule.header_hash(&header);
    if block.hash != hash.as_bytes()[..] {
        let said = json::hexadecimal(&block.hash);
        return Err(format!("block {number} is said to have hash {said}, its header has {hash}"));
    }
    if !headers_only && rule.data_hash(&block.transactions) != header.data_hash {
        return Err(format!(
            "the transactions of block {number} do not have its data hash {}",
            header.data_hash
        ));
    }
    if let Some((height, last_hash)) = last {
        if number != height + 1 {
            return Err(format!("block {number} follows block {height}"));
        }
        if header.previous_hash != last_hash {
            let previous = header.previous_hash;
            return Err(format!("block {number} follows a block {previous}, block {height} is {last_hash}"));
        }
    }
    Ok((number, hash))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use consensus_core::ledger::proof::data_hash;
    use consensus_proto::records::Transaction;

    use super::*;
    use crate::args::NodesArgs;
    use crate::args::certs::TlsArgs;
    use crate::fake_node::FakeNode;
    use crate::remote::Address;

    fn block(number: u64, previous: Hash) -> Block {
        let transactions = vec![Transaction { id: "a".into(), payload: "pay".into() }];
        let header =
            Header { number, previous_hash: previous, data_hash: data_hash(&transactions), timestamp_ms: 1 };
        Block {
            header: Some(header.to_record()),
            hash: Bytes::copy_from_slice(header.hash().as_bytes()),
            transaction_count: 1,
            transactions,
        }
    }

    #[test]
    fn a_chain_of_blocks_holds_and_a_gap_or_another_history_is_found() {
        let first = check(&block(1, Hash::default()), None, false).expect("holds");
        let second = check(&block(2, first.1), Some(first), false).expect("holds");
        assert_eq!(second.0, 2);
        let gap = check(&block(3, first.1), Some(first), false).expect_err("gap");
        assert_eq!(gap, "block 3 follows block 1");
        let other = check(&block(2, Hash([9; 32])), Some(first), false).expect_err("other history");
        assert!(other.starts_with("block 2 follows a block 0909"), "{other}");
    }

    #[test]
    fn changed_transactions_are_found_unless_only_headers_are_there() {
        let mut changed = block(1, Hash::default());
        changed.transactions[0].payload = "pay more".into();
        assert!(check(&changed, None, false).is_err());
        changed.transactions.clear();
        assert!(check(&changed, None, true).is_ok());
    }

    /// Blocks 1 to `count` of one chain; another `seed` is another history.
    fn chain(count: u64, seed: u8) -> Vec<Block> {
        let mut previous = Hash([seed; 32]);
        let mut blocks = Vec::new();
        for number in 1..=count {
            let next = block(number, previous);
            previous = Hash::from_slice(&next.hash).expect("32 bytes");
            blocks.push(next);
        }
        blocks
    }

    /// A node that delivers of these blocks what is asked for, and breaks off behind block `last`.
    fn node(blocks: Vec<Block>, last: u64) -> Address {
        let height = blocks.len() as u64;
        FakeNode::default()
            .at_height(height)
            .on_deliver(move |wanted| {
                let first = wanted.number.max(1);
                let to = if wanted.to == 0 { last } else { wanted.to.min(last) };
                let mut delivered: Vec<_> =
                    (first..=to.min(height)).map(|number| Ok(blocks[number as usize - 1].clone())).collect();
                if wanted.to != to {
                    delivered.push(Err(Status::unavailable("killed")));
                }
                delivered
            })
            .serve()
    }

    fn args(nodes: &[Address], to: Option<u64>, follow: bool) -> DeliverArgs {
        DeliverArgs {
            nodes: NodesArgs {
                nodes: nodes.to_vec(),
                timeout: Duration::from_secs(5),
                tls: TlsArgs::default(),
                json: true,
            },
            from: From::Oldest,
            to,
            follow,
            headers_only: false,
            no_payloads: false,
        }
    }

    fn heights(out: &[u8]) -> Vec<u64> {
        let height =
            |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["height"].as_u64();
        std::str::from_utf8(out).expect("text").lines().map(|line| height(line).expect("a height")).collect()
    }

    #[tokio::test]
    async fn without_an_end_it_goes_to_the_tip_of_the_start() {
        let mut out = Vec::new();
        let verdict = run(args(&[node(chain(4, 0), 99)], None, false), &mut out).await.expect("delivers");
        assert_eq!((verdict, heights(&out)), (Verdict::Fine, vec![1, 2, 3, 4]));
    }

    #[tokio::test]
    async fn a_followed_stream_goes_on_at_the_next_node_without_gap_or_repetition() {
        // The first node dies behind block 3, the second has another history behind block 5: that ends it.
        let mut other = chain(5, 0);
        other.push(block(6, Hash([9; 32])));
        let nodes = [node(chain(9, 0), 3), node(other, 99)];
        let mut out = Vec::new();
        let verdict = run(args(&nodes, None, true), &mut out).await.expect("delivers");
        assert_eq!((verdict, heights(&out)), (Verdict::Finding, vec![1, 2, 3, 4, 5]));
    }

    #[tokio::test]
    async fn a_lost_stream_that_is_not_followed_is_an_error() {
        let mut out = Vec::new();
        let error = run(args(&[node(chain(9, 0), 3)], Some(9), false), &mut out).await.expect_err("lost");
        assert!(error.to_string().contains("killed"), "{error}");
        assert_eq!(heights(&out), [1, 2, 3]);
    }
}
