//! `status`: one line per node, and whether the nodes agree.
//!
//! Every node is asked at once. The findings: no leader; two leaders in one term; nodes that name different
//! leaders in one term; different clusters, chain incarnations or voters at one commit index; a halted
//! chain; a CITA-Cloud chain that stands still; and different blocks at the height that all of them have
//! (asked for in a second round). A node that does not answer is shown as such, and so is what a node asks its
//! operator to see to (`ALARM`); these are findings only with `--all`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::Duration;

use consensus_proto::admin::{ChainStatus, ControllerStatus, NodeStatus, PeerStatus, StatusRequest};
use consensus_proto::ordering::{DeliverRequest, deliver_request};
use futures_util::future::join_all;
use serde::Serialize;

use crate::args::StatusArgs;
use crate::output::text::NodeName;
use crate::output::{Verdict, json, table, text};
use crate::remote::{Access, Address, Node, Patience, request};

/// Runs the command. If no node answers, nothing can be said.
///
/// # Errors
/// If the output cannot be written.
pub(crate) async fn run(args: StatusArgs, out: &mut dyn Write) -> anyhow::Result<Verdict> {
    let (access, timeout) = (Access::new(&args.nodes.tls)?, args.nodes.timeout);
    let answers = join_all(args.nodes.nodes.iter().map(|address| ask(&access, address, timeout))).await;
    let views: Vec<NodeView> =
        args.nodes.nodes.iter().zip(&answers).map(|(at, answer)| NodeView::new(at, answer)).collect();
    let reachable = views.iter().filter(|view| view.reachable).count();
    let mut findings = disagreements(&views);
    findings.extend(troubles(&views));
    let compared = compare_chains(&answers, timeout, &mut findings).await;
    if args.all {
        for view in &views {
            if let Some(error) = &view.error {
                findings.push(error.clone());
            } else if !view.ready {
                findings.push(format!("{}: not ready: {}", view.address, view.not_ready_reason));
            }
            findings.extend(
                view.alarms.iter().map(|alarm| format!("{}: alarm: {}", view.address, text::one_line(alarm))),
            );
        }
    }
    let verdict =
        if reachable == 0 { Verdict::CannotTell } else { Verdict::finding_if(!findings.is_empty()) };
    let report = Report {
        schema: "consensus-cli/status/1",
        leader: leader(&views),
        agree: reachable > 0 && findings.is_empty(),
        compared_at_height: compared,
        nodes: views,
        findings,
    };
    if args.nodes.json {
        json::line(out, &report)?;
    } else {
        print(out, &report)?;
    }
    Ok(verdict)
}

type Answer = Result<(Node, NodeStatus), anyhow::Error>;

async fn ask(access: &Access, address: &Address, timeout: Duration) -> Answer {
    let node = access.connect(address, timeout, Patience::Alone).await?;
    let status = node.admin().status(request(StatusRequest {}, timeout)).await;
    let status = status.map_err(|status| node.explain(&status))?.into_inner();
    Ok((node, status))
}

#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    nodes: Vec<NodeView>,
    leader: Option<Leader>,
    agree: bool,
    compared_at_height: Option<u64>,
    findings: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Leader {
    node_id: u64,
    term: u64,
    address: String,
}

#[derive(Debug, Default, Serialize)]
struct NodeView {
    address: String,
    reachable: bool,
    error: Option<String>,
    node_id: u64,
    cluster: String,
    version: String,
    uptime_ms: u64,
    ready: bool,
    not_ready_reason: String,
    chains: Vec<ChainView>,
    /// Of a CITA-Cloud node: its address; why it has no seat or no leader; its controller. Null otherwise.
    validator: Option<String>,
    waits: Option<String>,
    controller: Option<ControllerView>,
    /// What its operator should see to, a sentence each.
    alarms: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
struct ControllerView {
    /// Null before it was heard.
    height: Option<u64>,
    agreed_height: u64,
    healthy: bool,
    block_interval_ms: u64,
    validators: Vec<String>,
    trouble: Option<String>,
}

#[derive(Debug, Default, Serialize)]
struct ChainView {
    chain: String,
    chain_incarnation: u64,
    state: String,
    halt_reason: String,
    role: String,
    term: u64,
    leader_id: u64,
    leader_address: String,
    commit_index: u64,
    applied_index: u64,
    persisted_index: u64,
    first_index: u64,
    last_index: u64,
    /// Committed and not yet applied.
    lag: u64,
    height: u64,
    /// Null where there is no ledger.
    tip_hash: Option<String>,
    transactions: Option<u64>,
    leader_changes: u64,
    voters: Vec<u64>,
    learners: Vec<u64>,
    peers_connected: u64,
    peers: Vec<PeerView>,
}

#[derive(Debug, Serialize)]
struct PeerView {
    node_id: u64,
    address: String,
    connected: bool,
    matched: u64,
    next: u64,
    progress: String,
    last_heard_ms: u64,
    queue_bytes: u64,
    dropped_messages: u64,
}

impl NodeView {
    fn new(address: &Address, answer: &Answer) -> Self {
        let address = address.to_string();
        match answer {
            Err(error) => Self { address, error: Some(format!("{error:#}")), ..Self::default() },
            Ok((_, status)) => Self {
                address,
                reachable: true,
                error: None,
                node_id: status.node_id,
                cluster: status.cluster.clone(),
                version: status.version.clone(),
                uptime_ms: status.uptime_ms,
                ready: status.ready,
                not_ready_reason: status.not_ready_reason.clone(),
                chains: status.chains.iter().map(ChainView::from).collect(),
                validator: some(&json::hexadecimal(&status.validator)),
                waits: some(&status.waits),
                controller: status.controller.as_ref().map(ControllerView::from),
                alarms: status.alarms.clone(),
            },
        }
    }

    /// A node as this one's operators know it.
    fn name(&self, id: u64) -> NodeName {
        NodeName::new(id, self.controller.is_some())
    }

    /// Where the chain is known to be, also by a node that takes no part in it.
    fn height(&self) -> Option<u64> {
        self.controller.as_ref().and_then(|controller| controller.height)
    }
}

/// What is told, if anything is.
fn some(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

impl From<&ControllerStatus> for ControllerView {
    fn from(controller: &ControllerStatus) -> Self {
        Self {
            height: controller.height,
            agreed_height: controller.agreed_height,
            healthy: controller.healthy,
            block_interval_ms: controller.block_interval_ms,
            validators: controller.validators.iter().map(|address| json::hexadecimal(address)).collect(),
            trouble: some(&controller.trouble),
        }
    }
}

impl From<&ChainStatus> for ChainView {
    fn from(chain: &ChainStatus) -> Self {
        let ledger = !chain.tip_hash.is_empty();
        Self {
            chain: chain.chain.clone(),
            chain_incarnation: chain.chain_incarnation,
            state: chain.state.clone(),
            halt_reason: chain.halt_reason.clone(),
            role: chain.role.clone(),
            term: chain.term,
            leader_id: chain.leader_id,
            leader_address: chain.leader_address.clone(),
            commit_index: chain.commit_index,
            applied_index: chain.applied_index,
            persisted_index: chain.persisted_index,
            first_index: chain.first_index,
            last_index: chain.last_index,
            lag: chain.commit_index.saturating_sub(chain.applied_index),
            height: chain.height,
            tip_hash: ledger.then(|| json::hexadecimal(&chain.tip_hash)),
            transactions: ledger.then_some(chain.transactions),
            leader_changes: chain.leader_changes,
            voters: chain.voters.clone(),
            learners: chain.learners.clone(),
            peers_connected: chain.peers.iter().filter(|peer| peer.connected).count() as u64,
            peers: chain.peers.iter().map(PeerView::from).collect(),
        }
    }
}

impl From<&PeerStatus> for PeerView {
    fn from(peer: &PeerStatus) -> Self {
        Self {
            node_id: peer.node_id,
            address: peer.address.clone(),
            connected: peer.connected,
            matched: peer.matched,
            next: peer.next,
            progress: peer.progress.clone(),
            last_heard_ms: peer.last_heard_ms,
            queue_bytes: peer.queue_bytes,
            dropped_messages: peer.dropped_messages,
        }
    }
}

/// The leader of the highest term: a node that says so of itself, otherwise whom the nodes name.
fn leader(views: &[NodeView]) -> Option<Leader> {
    let chains = || views.iter().flat_map(|view| view.chains.iter().map(move |chain| (view, chain)));
    let leading = chains().filter(|(_, chain)| chain.role == "leader" && chain.state == "running").map(
        |(view, chain)| Leader { node_id: view.node_id, term: chain.term, address: view.address.clone() },
    );
    let named = chains().filter(|(_, chain)| chain.leader_id != 0).map(|(_, chain)| Leader {
        node_id: chain.leader_id,
        term: chain.term,
        address: chain.leader_address.clone(),
    });
    let newest = |leaders: &mut dyn Iterator<Item = Leader>| leaders.max_by_key(|leader| leader.term);
    match (newest(&mut leading.into_iter()), newest(&mut named.into_iter())) {
        (Some(leading), Some(named)) if named.term > leading.term => Some(named),
        (leading, named) => leading.or(named),
    }
}

/// What the nodes' own words contradict, without asking further.
fn disagreements(views: &[NodeView]) -> Vec<String> {
    let mut findings = Vec::new();
    let reachable: Vec<&NodeView> = views.iter().filter(|view| view.reachable).collect();
    let clusters: BTreeSet<&str> = reachable.iter().map(|view| view.cluster.as_str()).collect();
    if clusters.len() > 1 {
        findings
            .push(format!("the nodes are of different clusters: {}", Vec::from_iter(clusters).join(", ")));
    }
    let mut chains: BTreeMap<&str, Vec<(&NodeView, &ChainView)>> = BTreeMap::new();
    for view in &reachable {
        for chain in &view.chains {
            chains.entry(&chain.chain).or_default().push((view, chain));
        }
    }
    if chains.is_empty() && !reachable.is_empty() && !reachable.iter().any(|view| view.ready) {
        findings.push("none of the nodes asked takes part in a chain".to_owned());
    }
    for (name, members) in chains {
        disagreements_of(name, &members, &mut findings);
    }
    findings
}

/// Chains that stand still where everybody agrees.
fn troubles(views: &[NodeView]) -> Vec<String> {
    let trouble = |view: &NodeView| {
        let trouble = view.controller.as_ref()?.trouble.as_ref()?;
        Some(format!("no progress on node {}: {trouble}", view.name(view.node_id)))
    };
    views.iter().filter_map(trouble).collect()
}

fn disagreements_of(name: &str, members: &[(&NodeView, &ChainView)], findings: &mut Vec<String>) {
    for (view, chain) in members.iter().filter(|(_, chain)| chain.state == "halted") {
        findings.push(format!(
            "chain {name}: halted on node {}: {}",
            view.name(view.node_id),
            chain.halt_reason
        ));
    }
    let incarnations: BTreeSet<u64> = members.iter().map(|(_, chain)| chain.chain_incarnation).collect();
    if incarnations.len() > 1 {
        findings.push(format!("chain {name}: the nodes have different incarnations: {incarnations:?}"));
    }
    let mut leaders: BTreeMap<u64, BTreeSet<NodeName>> = BTreeMap::new();
    for (view, chain) in members {
        let named = leaders.entry(chain.term).or_default();
        if chain.role == "leader" {
            named.insert(view.name(view.node_id));
        } else if chain.leader_id != 0 {
            named.insert(view.name(chain.leader_id));
        }
    }
    for (term, named) in leaders.iter().filter(|(_, named)| named.len() > 1) {
        findings.push(format!("chain {name}: the nodes name different leaders in term {term}: {named:?}"));
    }
    let newest = leaders.last_key_value().map(|(term, named)| (*term, named.is_empty()));
    if let Some((term, true)) = newest {
        findings.push(format!("chain {name}: no leader in term {term}"));
    }
    let mut voters: BTreeMap<u64, BTreeSet<Vec<NodeName>>> = BTreeMap::new();
    for (view, chain) in members {
        let mut sorted: Vec<NodeName> = chain.voters.iter().map(|id| view.name(*id)).collect();
        sorted.sort_unstable();
        voters.entry(chain.applied_index).or_default().insert(sorted);
    }
    for (index, sets) in voters.iter().filter(|(_, sets)| sets.len() > 1) {
        findings.push(format!("chain {name}: the nodes have different voters at index {index}: {sets:?}"));
    }
}

/// Compares the blocks at the height that all nodes have; that height, if there is one to compare at.
async fn compare_chains(answers: &[Answer], timeout: Duration, findings: &mut Vec<String>) -> Option<u64> {
    let nodes: Vec<&(Node, NodeStatus)> = answers.iter().flatten().collect();
    // The ordering service serves one chain; with several there is nothing common to ask for.
    let heights: Option<Vec<u64>> = nodes
        .iter()
        .map(|(_, status)| match status.chains.as_slice() {
            // Blocks elsewhere than in a ledger cannot be asked for here.
            [chain] if !chain.tip_hash.is_empty() => Some(chain.height),
            _ => None,
        })
        .collect();
    let height = heights?.into_iter().min().filter(|height| *height > 0)?;
    let hashes = join_all(nodes.iter().map(|(node, _)| block_hash(node, height, timeout))).await;
    let mut by_hash: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for ((_, status), hash) in nodes.iter().zip(hashes) {
        match hash {
            Ok(hash) => by_hash.entry(hash).or_default().push(status.node_id),
            Err(error) => findings.push(format!("block {height}: {error:#}")),
        }
    }
    if by_hash.len() > 1 {
        let groups: Vec<String> =
            by_hash.iter().map(|(hash, nodes)| format!("{hash} on {nodes:?}")).collect();
        findings.push(format!("the nodes have different blocks at height {height}: {}", groups.join(", ")));
    }
    Some(height)
}

async fn block_hash(node: &Node, height: u64, timeout: Duration) -> anyhow::Result<String> {
    let wanted = DeliverRequest {
        from: deliver_request::From::Number.into(),
        number: height,
        to: height,
        fail_if_not_ready: true,
        headers_only: true,
    };
    let first = async {
        let mut blocks = node.ordering().deliver(wanted).await?.into_inner();
        blocks.message().await
    };
    match tokio::time::timeout(timeout, first).await {
        Ok(Ok(Some(block))) => Ok(json::hexadecimal(&block.hash)),
        Ok(Ok(None)) => Err(anyhow::anyhow!("{}: not delivered", node.address)),
        Ok(Err(status)) => Err(node.explain(&status)),
        Err(_) => Err(anyhow::anyhow!("{}: no answer in time", node.address)),
    }
}

fn print(out: &mut dyn Write, report: &Report) -> anyhow::Result<()> {
    let columns = Columns::of(report);
    let mut rows = table::table(&columns.headings());
    for node in &report.nodes {
        if node.chains.is_empty() {
            rows.add_row(columns.row_without_chain(node));
        }
        for chain in &node.chains {
            rows.add_row(columns.row(node, chain));
        }
    }
    table::print(out, &rows)?;
    for error in report.nodes.iter().filter_map(|node| node.error.as_ref()) {
        writeln!(out, "{error}")?;
    }
    for node in &report.nodes {
        for alarm in &node.alarms {
            let alarm = text::one_line(alarm);
            writeln!(out, "ALARM node {}: {alarm}", node.name(node.node_id))?;
        }
    }
    let name = |leader: &Leader| NodeName::new(leader.node_id, columns.controller);
    match (&report.leader, report.compared_at_height) {
        (Some(leader), Some(height)) if report.agree => {
            writeln!(
                out,
                "node {} leads in term {}; equal blocks at height {height}",
                name(leader),
                leader.term
            )?;
        }
        (Some(leader), _) => writeln!(out, "node {} leads in term {}", name(leader), leader.term)?,
        (None, _) => writeln!(out, "no leader is known to the nodes asked")?,
    }
    for finding in &report.findings {
        writeln!(out, "FINDING {finding}")?;
    }
    Ok(())
}

/// Which columns apply to the nodes asked.
struct Columns {
    ledger: bool,
    controller: bool,
}

impl Columns {
    fn of(report: &Report) -> Self {
        let mut chains = report.nodes.iter().flat_map(|node| &node.chains);
        let controller = report.nodes.iter().any(|node| node.controller.is_some());
        Self { ledger: !controller || chains.any(|chain| chain.tip_hash.is_some()), controller }
    }

    fn headings(&self) -> Vec<&'static str> {
        let mut headings = vec!["address", ">node", "chain", "role", ">term", ">leader", ">height"];
        headings.extend(self.ledger.then_some("tip"));
        headings.extend(self.controller.then_some(">agreed"));
        headings.extend([">commit", ">applied", ">lag", ">peers", "state", "ready"]);
        headings
    }

    fn row(&self, node: &NodeView, chain: &ChainView) -> Vec<String> {
        let named = |id: u64| if id == 0 { "-".to_owned() } else { node.name(id).to_string() };
        let mut cells = vec![
            node.address.clone(),
            named(node.node_id),
            chain.chain.clone(),
            chain.role.clone(),
            chain.term.to_string(),
            named(chain.leader_id),
            chain.height.to_string(),
        ];
        cells.extend(
            self.ledger.then(|| chain.tip_hash.iter().flat_map(|hash| hash.chars().take(8)).collect()),
        );
        cells.extend(self.controller.then(|| agreed(node)));
        cells.extend([
            chain.commit_index.to_string(),
            chain.applied_index.to_string(),
            chain.lag.to_string(),
            format!("{}/{}", chain.peers_connected, chain.peers.len()),
            if chain.state == "halted" {
                text::shorten(&format!("halted: {}", chain.halt_reason), 60)
            } else {
                chain.state.clone()
            },
            ready(node),
        ]);
        cells
    }

    /// Of a node that is not reached, or takes no part in a chain.
    fn row_without_chain(&self, node: &NodeView) -> Vec<String> {
        let blank = |count| std::iter::repeat_n(String::new(), count);
        let mut cells = vec![node.address.clone()];
        if !node.reachable {
            cells.extend(blank(self.headings().len() - 3));
            cells.push("unreachable".to_owned());
            return cells;
        }
        cells.push(node.name(node.node_id).to_string());
        cells.extend(blank(4));
        cells.push(node.height().map(|height| height.to_string()).unwrap_or_default());
        cells.extend(blank(self.headings().len() - cells.len() - 2));
        cells.extend(["no seat".to_owned(), ready(node)]);
        cells
    }
}

fn agreed(node: &NodeView) -> String {
    node.controller.as_ref().map(|controller| controller.agreed_height.to_string()).unwrap_or_default()
}

fn ready(node: &NodeView) -> String {
    if node.ready { "yes".to_owned() } else { format!("no: {}", node.not_ready_reason) }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::fake_node::FakeNode;

    fn node(node_id: u64, role: &str, term: u64, leader_id: u64) -> NodeView {
        let chain = ChainView {
            chain: "main".to_owned(),
            state: "running".to_owned(),
            role: role.to_owned(),
            term,
            leader_id,
            applied_index: 9,
            voters: vec![1, 2, 3],
            ..ChainView::default()
        };
        NodeView {
            address: format!("n{node_id}:1"),
            reachable: true,
            node_id,
            cluster: "c".to_owned(),
            ready: true,
            chains: vec![chain],
            ..NodeView::default()
        }
    }

    #[test]
    fn a_follower_of_an_older_term_does_not_disagree() {
        let views = [node(1, "leader", 5, 1), node(2, "follower", 5, 1), node(3, "follower", 4, 2)];
        assert_eq!(disagreements(&views), Vec::<String>::new());
        assert_eq!(leader(&views).map(|leader| leader.node_id), Some(1));
    }

    #[test]
    fn two_leaders_in_one_term_are_found() {
        let findings = disagreements(&[node(1, "leader", 5, 1), node(2, "leader", 5, 2)]);
        assert_eq!(findings, ["chain main: the nodes name different leaders in term 5: {1, 2}"]);
    }

    #[test]
    fn no_leader_in_the_newest_term_is_found() {
        let findings = disagreements(&[node(1, "candidate", 6, 0), node(2, "follower", 5, 1)]);
        assert_eq!(findings, ["chain main: no leader in term 6"]);
    }

    #[test]
    fn a_foreign_node_a_halted_chain_and_other_voters_are_found() {
        let mut foreign = node(2, "follower", 5, 1);
        foreign.cluster = "other".to_owned();
        foreign.chains[0].state = "halted".to_owned();
        foreign.chains[0].halt_reason = "damaged record log 7".to_owned();
        foreign.chains[0].voters = vec![1, 2];
        let findings = disagreements(&[node(1, "leader", 5, 1), foreign]);
        assert_eq!(
            findings,
            [
                "the nodes are of different clusters: c, other",
                "chain main: halted on node 2: damaged record log 7",
                "chain main: the nodes have different voters at index 9: {[1, 2], [1, 2, 3]}",
            ]
        );
    }

    fn printed(views: Vec<NodeView>) -> String {
        let findings = disagreements(&views);
        let report = Report {
            schema: "",
            leader: leader(&views),
            agree: findings.is_empty(),
            nodes: views,
            compared_at_height: None,
            findings,
        };
        let mut out = Vec::new();
        print(&mut out, &report).expect("prints");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn nodes_of_a_cita_cloud_chain_are_named_by_address_and_have_no_tip() {
        let (first, second) = (0xc1bc_d410_636e_5ece, 0xa516_9863_d569_2516);
        let controller = |height| {
            Some(ControllerView { height: Some(height), agreed_height: 8, ..ControllerView::default() })
        };
        let mut views = vec![node(first, "leader", 5, first), node(second, "", 0, 0)];
        views[0].controller = controller(7);
        views[0].chains[0].height = 7;
        views[1].controller = controller(6);
        views[1].chains.clear();
        views[1].ready = false;
        views[1].not_ready_reason = "seat: waiting".to_owned();
        assert_eq!(troubles(&views), Vec::<String>::new());
        let stuck =
            ControllerView { trouble: Some("block 8 is stuck".to_owned()), ..ControllerView::default() };
        let stuck = NodeView { controller: Some(stuck), ..node(first, "leader", 5, first) };
        assert_eq!(troubles(&[stuck]), ["no progress on node c1bcd410636e5ece: block 8 is stuck"]);
        let text = printed(views);
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(rows[0].contains(&"agreed") && !rows[0].contains(&"tip"), "{text}");
        assert_eq!(
            rows[1][1..8],
            ["c1bcd410636e5ece", "main", "leader", "5", "c1bcd410636e5ece", "7", "8"],
            "{text}"
        );
        assert_eq!(
            rows[2][1..],
            ["a5169863d5692516", "6", "no", "seat", "no:", "seat:", "waiting"],
            "{text}"
        );
        assert!(text.ends_with("node c1bcd410636e5ece leads in term 5\n"), "{text}");
    }

    #[test]
    fn nodes_of_which_none_takes_part_in_a_chain_are_a_finding() {
        let mut view = node(1, "", 0, 0);
        view.chains.clear();
        assert_eq!(
            disagreements(std::slice::from_ref(&view)),
            Vec::<String>::new(),
            "it follows, and is well"
        );
        view.ready = false;
        assert_eq!(disagreements(&[view]), ["none of the nodes asked takes part in a chain"]);
    }

    #[test]
    fn an_unreachable_node_has_no_opinion() {
        let gone = NodeView {
            address: "n3:1".to_owned(),
            error: Some("n3:1: connection refused".to_owned()),
            ..NodeView::default()
        };
        let views = [node(1, "leader", 5, 1), gone];
        assert_eq!(disagreements(&views), Vec::<String>::new());
        let mut out = Vec::new();
        let report = Report {
            schema: "",
            leader: leader(&views),
            nodes: views.into(),
            agree: true,
            compared_at_height: None,
            findings: Vec::new(),
        };
        print(&mut out, &report).expect("prints");
        let text = String::from_utf8(out).expect("text");
        assert!(text.contains("unreachable\nn3:1: connection refused\n"), "{text}");
        assert!(text.ends_with("node 1 leads in term 5\n"), "{text}");
    }

    const ALARM: &str = "certificates: the certificate own ends in 6 days";

    /// What is printed of two nodes, of which the second has an alarm.
    async fn asked(flags: &str) -> (Verdict, String) {
        let chain = |role: &str| ChainStatus {
            chain: "main".to_owned(),
            state: "running".to_owned(),
            role: role.to_owned(),
            term: 5,
            leader_id: 1,
            voters: vec![1, 2],
            ..ChainStatus::default()
        };
        let status = |node_id: u64, role: &str| NodeStatus {
            node_id,
            cluster: "c".to_owned(),
            ready: true,
            chains: vec![chain(role)],
            ..NodeStatus::default()
        };
        let first = FakeNode::default().with_status(status(1, "leader")).serve();
        let alarms = vec![format!("{ALARM}\nsince monday")];
        let second = FakeNode::default().with_status(NodeStatus { alarms, ..status(2, "follower") }).serve();
        let line = format!("consensus-cli status --nodes {first},{second} {flags}");
        let cli = Cli::try_parse_from(line.split_whitespace()).expect("parses");
        let Command::Status(args) = cli.command else { panic!("{line}") };
        let mut out = Vec::new();
        let verdict = run(args, &mut out).await.expect("is printed");
        (verdict, String::from_utf8(out).expect("text"))
    }

    #[tokio::test]
    async fn what_a_node_asks_its_operator_to_see_to_is_a_line_and_a_finding_with_all() {
        let line = format!("ALARM node 2: {ALARM}\\nsince monday\n");
        let (verdict, text) = asked("").await;
        assert_eq!(verdict, Verdict::Fine);
        assert!(text.contains(&line) && text.matches("ALARM").count() == 1, "{text}");
        assert!(!text.contains("FINDING"), "{text}");
        let (verdict, text) = asked("--all").await;
        assert_eq!(verdict, Verdict::Finding);
        assert!(text.contains(&line) && text.contains(": alarm: certificates"), "{text}");
    }

    #[tokio::test]
    async fn alarms_are_lists_in_json_empty_where_there_are_none() {
        let (_, text) = asked("--json").await;
        let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(report["nodes"][0]["alarms"], serde_json::json!([]));
        assert_eq!(report["nodes"][1]["alarms"], serde_json::json!([format!("{ALARM}\nsince monday")]));
        assert_eq!(report["findings"], serde_json::json!([]));
    }
}
