//! Everybody who must be refused, one after the other: what the caller reads, what the node logs and counts.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::super::papers::Authority;
use super::{PATIENCE, Story};
use crate::e2e::cli::Cli;
use crate::e2e::http;

/// Somebody who calls in vain.
struct Refused {
    who: &'static str,
    cli: Cli,
    arguments: &'static [&'static str],
    /// What the caller must read.
    words: &'static [&'static str],
    /// What the node calls it.
    reason: &'static str,
}

const TIP: &[&str] = &["tip", "--timeout", "5s", "--nodes"];
const LOG_FILTER: &[&str] = &["log-filter", "info", "--timeout", "5s", "--nodes"];
const SUBMIT: &[&str] = &["submit", "hello", "--timeout", "5s", "--to"];

/// Checks all of them at one node.
pub(super) fn check(story: &Story<'_>, authority: &Authority) -> Result<()> {
    let node = story.cluster.node(2)?;
    println!("  who calls in vain          what is said");
    for refused in calls(story, authority)? {
        let Refused { who, cli, arguments, words, reason } = refused;
        let before = counted(story, reason)?;
        let mut command = cli.command(arguments);
        let answer = cli.ask(command.arg(node.address()))?;
        let said = format!("{}{}", answer.stdout.trim(), answer.stderr);
        println!("  {who:<25}  {}", said.replace(&story.directory.display().to_string(), "DIR"));
        ensure!(answer.code != Some(0), "{who}: was served");
        ensure!(said.lines().count() == 1, "{who}: more than one line: {said}");
        for word in words {
            ensure!(said.contains(word), "{who}: no word of {word:?}: {said}");
        }
        let more = story.stage.interrupt().poll(PATIENCE, Duration::from_millis(50), || {
            Ok(Some(counted(story, reason)?).filter(|count| *count > before))
        })?;
        more.with_context(|| format!("{who}: the node counts no {reason}"))?;
        let log = std::fs::read_to_string(node.log()).with_context(|| node.log().display().to_string())?;
        let logged = log.lines().any(|line| line.contains("refused") && line.contains(reason));
        ensure!(logged, "{who}: the log of node 2 has no line with {reason}");
    }
    story.phases.say("each refusal is told to the caller, logged by the node and counted");
    Ok(())
}

fn calls(story: &Story<'_>, authority: &Authority) -> Result<Vec<Refused>> {
    let (plain, trusted) = (story.stage.cli(), &story.trusted);
    let stranger = Authority::create(plain, &story.directory.join("stranger"), "stranger")?;
    let mallory = stranger.issue_client("mallory", &["admin"])?;
    let reader = authority.issue_client("reader", &["read"])?;
    let late = authority.issue_short("late", "read")?;
    let over = story
        .stage
        .interrupt()
        .poll(PATIENCE, Duration::from_millis(50), || Ok(late.are_over(plain)?.then_some(())))?;
    over.context("a certificate for a second does not end")?;
    // A certificate counts to the end of its last second.
    std::thread::sleep(Duration::from_secs(1));
    Ok(vec![
        Refused {
            who: "a CA that is not trusted",
            cli: mallory.cli(plain, trusted),
            arguments: TIP,
            words: &["does not know the CA of", "mallory.crt"],
            reason: "unknown-authority",
        },
        Refused {
            who: "another role: operating",
            cli: reader.cli(plain, trusted),
            arguments: LOG_FILTER,
            words: &["needs the role \"admin\"", "reader", "read"],
            reason: "role",
        },
        Refused {
            who: "another role: submitting",
            cli: reader.cli(plain, trusted),
            arguments: SUBMIT,
            words: &["needs the role \"submit\"", "reader"],
            reason: "role",
        },
        Refused {
            who: "an expired certificate",
            cli: late.cli(plain, trusted),
            arguments: TIP,
            words: &["late.crt (--cert) has expired"],
            reason: "expired",
        },
        Refused {
            who: "no certificate",
            cli: plain.over_tls(Some(trusted), None),
            arguments: TIP,
            words: &["wants a certificate and has got none"],
            reason: "no-certificate",
        },
        Refused {
            who: "plaintext",
            cli: plain.clone(),
            arguments: TIP,
            words: &["TLS", "--ca, --cert and --key"],
            reason: "plaintext",
        },
    ])
}

/// How often node 2 has refused a client for a reason.
fn counted(story: &Story<'_>, reason: &str) -> Result<u64> {
    let metrics = http::text_at(story.cluster.node(2)?.ops_address(), "/metrics")?;
    let label = format!("reason=\"{reason}\"");
    let lines = metrics.lines().filter(|line| {
        line.contains("security_refused_total{") && line.contains("at=\"client\"") && line.contains(&label)
    });
    lines
        .map(|line| {
            let number = line.rsplit(' ').next().and_then(|number| number.parse::<f64>().ok());
            number.map(|number| number as u64).with_context(|| format!("not a counter: {line}"))
        })
        .sum()
}
