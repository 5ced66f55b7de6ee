//! `submit`: one transaction, or each line of a file or standard input.
//!
//! The summary (`--json`, schema `consensus-cli/submit/1`): `client`, `ack`, `ending` (`complete`,
//! `gave up: …`,
//! `not allowed: …`, `wrong protocol: …`, `interrupted`), `sent`, `committed` (duplicates included), `duplicates`, `accepted`,
//! `refused`, `unacknowledged`, `blank_lines`, `first_height`, `last_height` (null without a commit),
//! `elapsed_ms` (to the last acknowledgement), `rate_per_s`, `longest_gap_ms` (longest time without a fate learned), `latency`
//! (microseconds from first sending to acknowledgement), `first_refusal` (`line`, `id`, `message`, or
//! null) and `receipt` (of a single transaction, null otherwise).
//!
//! A receipt (`--receipts`, one line per transaction, in the order of acknowledgement): `line`, `id`,
//! `outcome` (`committed`, `accepted`, `refused`, `unacknowledged`), `height`, `index`, `block_hash`,
//! `duplicate`, `message`, `latency_us`, `at_ms`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use consensus_proto::ordering::Acknowledgement;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::args::{Ack, SubmitArgs};
use crate::latency::{Latencies, LatencySummary};
use crate::output::{Verdict, json, text};
use crate::remote::{Access, Address};
use crate::submission::source::{self, Chunk};
use crate::submission::{self, Ending, Fate, Item, Observer, Options};

/// How the ending begins if this user may not submit.
const NOT_ALLOWED: &str = "not allowed: ";
/// How it begins if one side speaks TLS and the other does not.
const WRONG_PROTOCOL: &str = "wrong protocol: ";

/// Runs the command.
///
/// # Errors
/// If the input cannot be read or the receipts cannot be written.
pub(crate) async fn run(args: SubmitArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let client = args.client.clone().unwrap_or_else(|| format!("{:016x}", rand::random::<u64>()));
    let (source, total_bytes) = open_source(&args, &client)?;
    let receipts = args
        .receipts
        .as_ref()
        .map(|path| File::create(path).with_context(|| format!("creating {}", path.display())))
        .transpose()?
        .map(BufWriter::new);
    let options = Options {
        nodes: args.nodes.clone(),
        access: Access::new(&args.tls)?,
        acknowledgement: match args.ack {
            Ack::Accepted => Acknowledgement::Accepted,
            Ack::Committed => Acknowledgement::Committed,
        },
        window: args.window as usize,
        batch: args.batch as usize,
        ordered: args.ordered,
        timeout: args.timeout,
    };
    let single = args.lines.is_none();
    let mut tally = Tally::new(progress(total_bytes, single), receipts, single);
    let ending = submission::run(options, source, &mut tally).await?;
    tally.bar.finish_and_clear();
    let summary = tally.summary(client, args.ack, &ending);
    if args.json {
        json::line(out, &summary)?;
    } else {
        print(out, &summary, single)?;
    }
    Ok(match (summary.unacknowledged, summary.refused, &ending) {
        (0, 0, Ending::Complete) => Verdict::Fine,
        (0, _, Ending::Complete) => Verdict::Finding,
        _ => Verdict::CannotTell,
    })
}

type Source = mpsc::Receiver<anyhow::Result<Chunk>>;

/// The transactions, and how many bytes they are if that is known.
fn open_source(args: &SubmitArgs, client: &str) -> anyhow::Result<(Source, Option<u64>)> {
    let id = args.id.clone().unwrap_or_else(|| Bytes::from(format!("{client}-1")));
    if let Some(text) = &args.text {
        return Ok((source::single(id, Bytes::copy_from_slice(text.as_bytes())), None));
    }
    if let Some(path) = &args.file {
        let payload = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        if payload.len() > source::TRANSACTION_BYTES_MAX {
            let (name, bytes, max) = (path.display(), payload.len(), source::TRANSACTION_BYTES_MAX);
            bail!("{name} has {bytes} bytes, a transaction has at most {max}");
        }
        return Ok((source::single(id, Bytes::from(payload)), None));
    }
    let path = args.lines.as_ref().context("one of TEXT, --file and --lines is needed")?;
    if path.as_os_str() == "-" {
        return Ok((source::lines(std::io::stdin(), client.to_owned())?, None));
    }
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let metadata = file.metadata().with_context(|| format!("opening {}", path.display()))?;
    let total = metadata.is_file().then_some(metadata.len());
    Ok((source::lines(file, client.to_owned())?, total))
}

/// A bar on a terminal, nothing elsewhere.
fn progress(total_bytes: Option<u64>, hidden: bool) -> ProgressBar {
    let (bar, template) = match total_bytes {
        _ if hidden => return ProgressBar::hidden(),
        Some(total) => (ProgressBar::new(total), "{wide_bar:.cyan} {percent}% {msg} {elapsed}"),
        None => (ProgressBar::new_spinner(), "{spinner} {msg} {elapsed}"),
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.with_style(style)
}

/// One transaction's outcome.
#[derive(Clone, Debug, Serialize)]
struct Receipt {
    line: u64,
    id: String,
    outcome: &'static str,
    height: Option<u64>,
    index: Option<u32>,
    block_hash: Option<String>,
    duplicate: bool,
    message: Option<String>,
    latency_us: Option<u64>,
    at_ms: u64,
}

impl Receipt {
    fn new(item: &Item, fate: &Fate, latency: Option<Duration>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut receipt = Self {
            line: item.line,
            id: text::show(&item.transaction.id),
            outcome: "unacknowledged",
            height: None,
            index: None,
            block_hash: None,
            duplicate: false,
            message: None,
            latency_us: latency.map(|latency| latency.as_micros() as u64),
            at_ms: now.as_millis() as u64,
        };
        match fate {
            Fate::Committed { height, index, block_hash, duplicate } => {
                receipt.outcome = "committed";
                receipt.height = Some(*height);
                receipt.index = Some(*index);
                receipt.block_hash = Some(json::hexadecimal(block_hash));
                receipt.duplicate = *duplicate;
            }
            Fate::Accepted => receipt.outcome = "accepted",
            Fate::Refused(message) => {
                receipt.outcome = "refused";
                receipt.message = Some(message.clone());
            }
            Fate::Unacknowledged => {}
        }
        receipt
    }
}

/// The first transaction that was refused for good.
#[derive(Clone, Debug, Serialize)]
struct Refusal {
    line: u64,
    id: String,
    message: String,
}

/// What came of a submission.
#[derive(Debug, Serialize)]
struct Summary {
    schema: &'static str,
    client: String,
    ack: &'static str,
    ending: String,
    sent: u64,
    committed: u64,
    duplicates: u64,
    accepted: u64,
    refused: u64,
    unacknowledged: u64,
    blank_lines: u64,
    first_height: Option<u64>,
    last_height: Option<u64>,
    elapsed_ms: u64,
    rate_per_s: u64,
    longest_gap_ms: u64,
    latency: LatencySummary,
    first_refusal: Option<Refusal>,
    receipt: Option<Receipt>,
}

/// Counts fates, writes receipts, shows progress.
struct Tally {
    bar: ProgressBar,
    receipts: Option<BufWriter<File>>,
    keep_receipt: bool,
    receipt: Option<Receipt>,
    committed: u64,
    duplicates: u64,
    accepted: u64,
    refused: u64,
    unacknowledged: u64,
    blank_lines: u64,
    heights: Option<(u64, u64)>,
    first_refusal: Option<Refusal>,
    latencies: Latencies,
    started: Instant,
    /// When the last fate was learned.
    last_fate: Instant,
    longest_gap: Duration,
    /// Transactions done, and when the last of them was.
    last_done: (u64, Instant),
    troubles_noted: u32,
    last_trouble: String,
}

/// Notes about trouble on standard error, at most, repetitions of the last aside; the summary has the last one.
const TROUBLE_NOTES_MAX: u32 = 20;

impl Tally {
    fn new(bar: ProgressBar, receipts: Option<BufWriter<File>>, keep_receipt: bool) -> Self {
        let now = Instant::now();
        Self {
            bar,
            receipts,
            keep_receipt,
            receipt: None,
            committed: 0,
            duplicates: 0,
            accepted: 0,
            refused: 0,
            unacknowledged: 0,
            blank_lines: 0,
            heights: None,
            first_refusal: None,
            latencies: Latencies::new(),
            started: now,
            last_fate: now,
            longest_gap: Duration::ZERO,
            last_done: (0, now),
            troubles_noted: 0,
            last_trouble: String::new(),
        }
    }

    fn done(&self) -> u64 {
        self.committed + self.accepted
    }

    fn summary(self, client: String, ack: Ack, ending: &Ending) -> Summary {
        let elapsed = self.last_done.1.duration_since(self.started).max(Duration::from_micros(1));
        Summary {
            schema: "consensus-cli/submit/1",
            client,
            ack: match ack {
                Ack::Accepted => "accepted",
                Ack::Committed => "committed",
            },
            ending: match ending {
                Ending::Complete => "complete".to_owned(),
                Ending::GaveUp(trouble) => format!("gave up: {trouble}"),
                Ending::NotAllowed(what) => format!("{NOT_ALLOWED}{what}"),
                Ending::WrongProtocol(what) => format!("{WRONG_PROTOCOL}{what}"),
                Ending::Interrupted => "interrupted".to_owned(),
            },
            sent: self.done() + self.refused + self.unacknowledged,
            committed: self.committed,
            duplicates: self.duplicates,
            accepted: self.accepted,
            refused: self.refused,
            unacknowledged: self.unacknowledged,
            blank_lines: self.blank_lines,
            first_height: self.heights.map(|(first, _)| first),
            last_height: self.heights.map(|(_, last)| last),
            elapsed_ms: elapsed.as_millis() as u64,
            rate_per_s: (self.done() as f64 / elapsed.as_secs_f64()).round() as u64,
            longest_gap_ms: self.longest_gap.as_millis() as u64,
            latency: self.latencies.summary(),
            first_refusal: self.first_refusal,
            receipt: self.receipt,
        }
    }
}

impl Observer for Tally {
    fn on_fate(&mut self, item: &Item, fate: Fate, latency: Option<Duration>) -> anyhow::Result<()> {
        match &fate {
            Fate::Committed { height, duplicate, .. } => {
                self.committed += 1;
                self.duplicates += u64::from(*duplicate);
                let (first, last) = self.heights.unwrap_or((*height, *height));
                self.heights = Some((first.min(*height), last.max(*height)));
            }
            Fate::Accepted => self.accepted += 1,
            Fate::Refused(message) => {
                self.refused += 1;
                let id = text::show(&item.transaction.id);
                self.first_refusal.get_or_insert_with(|| Refusal {
                    line: item.line,
                    id,
                    message: message.clone(),
                });
            }
            Fate::Unacknowledged => self.unacknowledged += 1,
        }
        if let (Some(latency), Fate::Committed { .. } | Fate::Accepted) = (latency, &fate) {
            self.latencies.record(latency);
        }
        if self.receipts.is_none() && !self.keep_receipt {
            return Ok(());
        }
        let receipt = Receipt::new(item, &fate, latency);
        if let Some(file) = &mut self.receipts {
            json::line(file, &receipt).context("writing receipts")?;
        }
        if self.keep_receipt {
            self.receipt = Some(receipt);
        }
        Ok(())
    }

    fn on_round(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        self.longest_gap = self.longest_gap.max(now - self.last_fate);
        self.last_fate = now;
        if self.done() > self.last_done.0 {
            self.last_done = (self.done(), now);
        }
        if let Some(file) = &mut self.receipts {
            file.flush().context("writing receipts")?;
        }
        if !self.bar.is_hidden() {
            let rate = self.done() as f64 / (now - self.started).as_secs_f64().max(1e-3);
            let height = self.heights.map_or(0, |(_, last)| last);
            self.bar.set_message(format!(
                "{} done, height {height}, {} tx/s",
                text::thousands(self.done()),
                text::thousands(rate as u64)
            ));
        }
        Ok(())
    }

    fn on_read(&mut self, bytes: u64, blank_lines: u64) {
        self.blank_lines += blank_lines;
        self.bar.inc(bytes);
    }

    fn on_trouble(&mut self, what: &str, next: Option<&Address>) {
        if self.last_trouble == what || self.troubles_noted == TROUBLE_NOTES_MAX {
            return;
        }
        self.troubles_noted += 1;
        what.clone_into(&mut self.last_trouble);
        self.bar.suspend(|| match next {
            Some(next) => eprintln!("{what}; going on at {next}"),
            None => eprintln!("{what}; trying again"),
        });
    }
}

fn print(out: &mut dyn Write, summary: &Summary, single: bool) -> anyhow::Result<()> {
    if let (true, Some(receipt)) = (single, &summary.receipt) {
        return print_receipt(out, receipt, summary);
    }
    let done = if summary.ack == "accepted" { summary.accepted } else { summary.committed };
    write!(
        out,
        "{} {} of {} transactions",
        summary.ack,
        text::thousands(done),
        text::thousands(summary.sent)
    )?;
    if let (Some(first), Some(last)) = (summary.first_height, summary.last_height) {
        write!(out, " in heights {first}..={last}")?;
    }
    writeln!(out)?;
    if summary.duplicates > 0 {
        writeln!(out, "  {} of them were in the chain already", text::thousands(summary.duplicates))?;
    }
    if let Some(refusal) = &summary.first_refusal {
        let Refusal { line, id, message } = refusal;
        writeln!(out, "  {} refused; the first is line {line}, id {id}: {message}", summary.refused)?;
    }
    if summary.unacknowledged > 0 {
        let count = text::thousands(summary.unacknowledged);
        let again = format!("submit again with --client {} to make sure", summary.client);
        writeln!(out, "  {count} without an answer ({}); {again}", summary.ending)?;
    } else if summary.ending != "complete" {
        writeln!(out, "  ended early: {}", summary.ending)?;
    }
    if summary.latency.count > 0 {
        let latency = &summary.latency;
        writeln!(
            out,
            "  {} tx/s over {}; latency p50 {}, p95 {}, p99 {}, max {}; longest gap {}",
            text::thousands(summary.rate_per_s),
            text::micros(summary.elapsed_ms * 1000),
            text::micros(latency.p50_us),
            text::micros(latency.p95_us),
            text::micros(latency.p99_us),
            text::micros(latency.max_us),
            text::span_ms(summary.longest_gap_ms)
        )?;
    }
    writeln!(out, "  ids {}-LINE", summary.client)?;
    Ok(())
}

fn print_receipt(out: &mut dyn Write, receipt: &Receipt, summary: &Summary) -> anyhow::Result<()> {
    let id = &receipt.id;
    match (receipt.outcome, &receipt.message) {
        ("committed", _) => {
            let again = if receipt.duplicate { " already" } else { "" };
            let (height, index) = (receipt.height.unwrap_or_default(), receipt.index.unwrap_or_default());
            let hash = receipt.block_hash.as_deref().unwrap_or_default();
            writeln!(out, "committed{again}: height {height}, index {index}, id {id}, block {hash}")?;
        }
        ("accepted", _) => writeln!(out, "accepted: id {id}")?,
        ("refused", Some(message)) => writeln!(out, "refused: {message}")?,
        _ if [NOT_ALLOWED, WRONG_PROTOCOL].iter().any(|start| summary.ending.starts_with(start)) => {
            writeln!(out, "{}", summary.ending)?;
        }
        _ => writeln!(out, "no answer ({}): id {id}; submit again under it to make sure", summary.ending)?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(line: u64) -> Item {
        Item::new(line, Bytes::from(format!("c-{line}")), Bytes::from_static(b"x"))
    }

    fn committed(height: u64, duplicate: bool) -> Fate {
        Fate::Committed { height, index: 3, block_hash: Bytes::from_static(&[0xab; 32]), duplicate }
    }

    #[test]
    fn the_summary_counts_each_transaction_once_and_spans_all_heights() {
        let mut tally = Tally::new(ProgressBar::hidden(), None, false);
        let ms = |ms| Some(Duration::from_millis(ms));
        tally.on_fate(&item(1), committed(7, false), ms(10)).expect("counts");
        tally.on_fate(&item(2), committed(5, true), ms(20)).expect("counts");
        tally.on_fate(&item(3), Fate::Refused("too large".to_owned()), ms(1)).expect("counts");
        tally.on_fate(&item(4), Fate::Unacknowledged, None).expect("counts");
        tally.on_round().expect("counts");
        let summary = tally.summary("c".to_owned(), Ack::Committed, &Ending::GaveUp("no leader".to_owned()));
        assert_eq!((summary.sent, summary.committed, summary.duplicates), (4, 2, 1));
        assert_eq!((summary.refused, summary.unacknowledged), (1, 1));
        assert_eq!((summary.first_height, summary.last_height), (Some(5), Some(7)));
        assert_eq!(summary.latency.count, 2);
        assert_eq!(summary.ending, "gave up: no leader");
        assert_eq!(summary.first_refusal.map(|refusal| refusal.line), Some(3));
    }

    #[test]
    fn a_receipt_has_stable_fields() {
        let mut receipt = Receipt::new(&item(9), &committed(4, false), Some(Duration::from_micros(77)));
        receipt.at_ms = 1;
        let hash = "ab".repeat(32);
        assert_eq!(
            serde_json::to_string(&receipt).expect("serializes"),
            format!(
                "{{\"line\":9,\"id\":\"c-9\",\"outcome\":\"committed\",\"height\":4,\"index\":3,\
                 \"block_hash\":\"{hash}\",\"duplicate\":false,\"message\":null,\"latency_us\":77,\"at_ms\":1}}"
            )
        );
    }
}
