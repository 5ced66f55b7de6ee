//! Traces of a CITA-Cloud chain: one for each sampled height, over all nodes and into their controllers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use consensus_server::config::Tracing;

use crate::cluster::Cluster;
use crate::collector::{Collector, Seen};

const ALL: [u64; 4] = [1, 2, 3, 4];
const INTERVAL: Duration = Duration::from_millis(50);

/// All nodes come this far; what is above may be under way when they end.
const HEIGHTS: u64 = 30;

/// The heights that were traced to their end, with all their spans.
fn heights(spans: &[Seen]) -> Vec<(&Seen, Vec<&Seen>)> {
    let mut traces: BTreeMap<&str, Vec<&Seen>> = BTreeMap::new();
    for span in spans {
        traces.entry(&span.trace).or_default().push(span);
    }
    let is_reached = |span: &Seen| {
        let height = span.attributes.get("consensus.height").and_then(|height| height.parse().ok());
        height.is_some_and(|height: u64| height <= HEIGHTS)
    };
    let ended = spans.iter().filter(|span| span.name == "height" && !span.failed);
    let roots = ended.filter(|span| is_reached(span));
    roots.map(|root| (root, traces[root.trace.as_str()].clone())).collect()
}

/// Whether all nodes have told what they did with the entry, and the leader how it came to be.
fn is_whole(root: &Seen, all: &[&Seen]) -> bool {
    let by = |name: &str| -> BTreeSet<&str> {
        all.iter().filter(|span| span.name == name).map(|span| span.node.as_str()).collect()
    };
    let everywhere = ["sync", "commit", "apply"].iter().all(|name| by(name).len() == ALL.len());
    let leader: BTreeSet<&str> = [root.node.as_str()].into();
    everywhere && ["propose", "get_proposal"].iter().all(|name| by(name) == leader)
}

fn whole(spans: &[Seen]) -> usize {
    heights(spans).iter().filter(|(root, all)| is_whole(root, all)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sampled_height_has_one_trace_over_all_nodes_and_their_controllers_are_told() {
    let collector = Collector::start().await;
    let (endpoint, service_name) = (collector.endpoint(), "consensus".to_owned());
    let tracing = Tracing { endpoint, ca: None, ratio_ppm: 1_000_000, service_name };
    let cluster = Cluster::traced(&ALL, INTERVAL, tracing);
    cluster.grow(&ALL, HEIGHTS).await;
    let controllers = cluster.controllers.clone();
    cluster.end().await;
    let spans = collector.until(|spans| whole(spans) as u64 >= HEIGHTS).await;

    let heights = heights(&spans);
    println!("{} of {} traces are whole, {} spans", whole(&spans), heights.len(), spans.len());
    // A proposal that an election interrupts is traced anew, or not at all.
    assert!(whole(&spans) as u64 + 1 >= HEIGHTS, "{} of {}", whole(&spans), heights.len());
    let told = controllers.traced_calls();
    let (mut committed, mut checked) = (0, 0);
    for (root, all) in &heights {
        assert_eq!(root.parent, "");
        assert!(root.attributes.contains_key("consensus.height"), "{root:?}");
        for span in all.iter().filter(|span| span.span != root.span) {
            assert_eq!(span.parent, root.span, "{span:?}");
            let call = matches!(span.name.as_str(), "get_proposal" | "check_proposal" | "commit_block");
            assert_eq!(
                call,
                told.contains(&span.ids()),
                "a controller is told the span of its call: {span:?}"
            );
            committed += usize::from(span.name == "commit_block");
            checked += usize::from(span.name == "check_proposal" && span.node != root.node);
        }
    }
    // A controller may have a block from another one before it is asked to commit it.
    assert!(committed >= heights.len() * 3, "{committed}");
    assert!(checked >= heights.len() * 2, "{checked}");
}
