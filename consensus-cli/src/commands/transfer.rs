//! `transfer-leader` and `log-filter`: the two commands that change a running node.

use std::io::Write;
use std::time::Duration;

use anyhow::anyhow;
use consensus_proto::admin::{NodeStatus, SetLogFilterRequest, StatusRequest, TransferLeaderRequest};
use serde::Serialize;
use tonic::Code;

use crate::args::{LogFilterArgs, NodesArgs, TransferArgs};
use crate::output::text::NodeName;
use crate::output::{Verdict, json};
use crate::remote::{Access, Address, Node, Patience, request};

#[derive(Serialize)]
struct Transferred {
    schema: &'static str,
    node: String,
    leader_id: u64,
    term: u64,
}

/// Runs `transfer-leader` at the node that leads; a transfer that the leader refuses is a finding.
///
/// # Errors
/// If no node is found to lead, or it does not answer.
pub(crate) async fn run(args: TransferArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let timeout = args.nodes.timeout;
    let (leader, by_address) = leading_node(&args.nodes).await?;
    let wanted = TransferLeaderRequest { to_node_id: args.to.unwrap_or(0) };
    let reply = match leader.admin().transfer_leader(request(wanted, timeout)).await {
        Ok(reply) => reply.into_inner(),
        Err(status)
            if matches!(status.code(), Code::FailedPrecondition | Code::InvalidArgument | Code::Aborted) =>
        {
            eprintln!("{:#}", leader.explain(&status));
            return Ok(Verdict::Finding);
        }
        Err(status) => return Err(leader.explain(&status)),
    };
    let done = Transferred {
        schema: "consensus-cli/transfer/1",
        node: leader.address.to_string(),
        leader_id: reply.leader_id,
        term: reply.term,
    };
    if args.nodes.json {
        json::line(out, &done)?;
    } else {
        writeln!(out, "node {} leads in term {}", NodeName::new(done.leader_id, by_address), done.term)?;
    }
    Ok(Verdict::Fine)
}

/// The one of the given nodes that leads, and whether its nodes are known by their addresses. The only one
/// given is taken for it, so that its refusal is seen.
pub(crate) async fn leading_node(args: &NodesArgs) -> anyhow::Result<(Node, bool)> {
    let access = Access::new(&args.tls)?;
    let mut failures = Vec::new();
    for address in &args.nodes {
        match ask(&access, address, args.timeout).await {
            Ok((node, status)) => {
                let leads = status.chains.iter().any(|chain| chain.role == "leader");
                if leads || args.nodes.len() == 1 {
                    return Ok((node, status.controller.is_some()));
                }
                failures.push(format!("{address}: does not lead"));
            }
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    Err(anyhow!("no leader found: {}", failures.join("; ")))
}

async fn ask(access: &Access, address: &Address, timeout: Duration) -> anyhow::Result<(Node, NodeStatus)> {
    let node = access.connect(address, timeout, Patience::Alone).await?;
    let status = node.admin().status(request(StatusRequest {}, timeout)).await;
    let status = status.map_err(|status| node.explain(&status))?.into_inner();
    Ok((node, status))
}

#[derive(Serialize)]
struct Filtered {
    schema: &'static str,
    node: String,
    filter: String,
    previous: Option<String>,
    error: Option<String>,
}

/// Runs `log-filter` at every node given.
///
/// # Errors
/// If the output cannot be written; a node's failure is a line of the output and makes the verdict.
pub(crate) async fn run_log_filter(args: LogFilterArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let access = Access::new(&args.nodes.tls)?;
    let mut verdict = Verdict::Fine;
    for address in &args.nodes.nodes {
        let (changed, node_verdict) = set_filter(&access, address, &args).await;
        verdict = verdict.and(node_verdict);
        if args.nodes.json {
            json::line(out, &changed)?;
        } else if let Some(error) = &changed.error {
            writeln!(out, "{error}")?;
        } else {
            let previous = changed.previous.as_deref().unwrap_or_default();
            writeln!(out, "{address}: {} (was {previous})", args.filter)?;
        }
    }
    Ok(verdict)
}

async fn set_filter(access: &Access, address: &Address, args: &LogFilterArgs) -> (Filtered, Verdict) {
    let mut changed = Filtered {
        schema: "consensus-cli/log-filter/1",
        node: address.to_string(),
        filter: args.filter.clone(),
        previous: None,
        error: None,
    };
    let timeout = args.nodes.timeout;
    let node = match access.connect(address, timeout, Patience::Alone).await {
        Ok(node) => node,
        Err(error) => {
            changed.error = Some(format!("{error:#}"));
            return (changed, Verdict::CannotTell);
        }
    };
    let wanted = SetLogFilterRequest { filter: args.filter.clone() };
    match node.admin().set_log_filter(request(wanted, timeout)).await {
        Ok(reply) => {
            changed.previous = Some(reply.into_inner().previous);
            (changed, Verdict::Fine)
        }
        Err(status) => {
            changed.error = Some(format!("{:#}", node.explain(&status)));
            let refused = status.code() == Code::InvalidArgument;
            (changed, if refused { Verdict::Finding } else { Verdict::CannotTell })
        }
    }
}
