//! Each node in a network namespace of its own, on one bridge, with a packet filter at its door.
//!
//! The bridge has a namespace of its own too: where the machine's own packet filter looks at bridged packets,
//! as it does beside Docker, it would drop ours. Everything has a name that begins with the run's and is removed by the [`Guardian`]. The filters see
//! packets between nodes only; this command and its clients reach every node at any time. There is no delay
//! here: it would take the kernel's `netem`, which is not everywhere.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::rules::{Effects, Link, Passage, Rule};
use crate::e2e::chaos::guardian::Guardian;
use crate::e2e::cluster::Site;
use crate::e2e::random::Random;
use crate::workspace::output;

/// The name of the bridge in its namespace.
const BRIDGE: &str = "bridge0";

/// Tries to find a network that nobody uses.
const NETWORKS_TRIED: u32 = 50;

/// The namespaces of a cluster.
#[derive(Debug)]
pub(crate) struct Namespaces {
    /// What all names begin with.
    run: String,
    /// The first three bytes of all addresses.
    network: [u8; 3],
    count: u64,
    /// The filter at each node's door.
    filters: BTreeMap<u64, String>,
    /// Packets that filters have caught before they were replaced.
    caught: u64,
}

impl Namespaces {
    /// Makes `count` namespaces, for nodes 1 to `count`. `run` has at most eight characters.
    ///
    /// # Errors
    /// Without the right to, or without `ip` and `nft`.
    pub(crate) fn create(
        run: &str,
        count: u64,
        random: &mut Random,
        guardian: &mut Guardian,
    ) -> Result<Self> {
        ensure!(run.len() <= 8, "{run:?} has more than 8 characters");
        let mut this = Self {
            run: run.to_owned(),
            network: unused_network(random)?,
            count,
            filters: BTreeMap::new(),
            caught: 0,
        };
        let (switch, host) = (this.name("sw"), this.name("h"));
        guardian.at_end(&format!("ip netns del {switch}"))?;
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "add", "name", BRIDGE, "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", BRIDGE, "up"])?;
        // Goes with the namespace of its other end, later; the guardian does not wait for that.
        guardian.at_end(&format!("ip link del {host}"))?;
        this.plug(&host, &["link", "add", &host])?;
        ip(&["addr", "add", &format!("{}/24", this.host(254)), "dev", &host])?;
        ip(&["link", "set", &host, "up"])?;
        for node in 1..=count {
            this.add(node, guardian)?;
        }
        Ok(this)
    }

    fn add(&mut self, node: u64, guardian: &mut Guardian) -> Result<()> {
        let namespace = self.namespace(node);
        guardian.at_end(&format!("ip netns del {namespace}"))?;
        ip(&["netns", "add", &namespace])?;
        self.plug(&self.name(&format!("v{node}")), &["-n", &namespace, "link", "add", "eth0"])?;
        let address = format!("{}/24", self.host(node));
        ip(&["-n", &namespace, "addr", "add", &address, "dev", "eth0"])?;
        for device in ["lo", "eth0"] {
            ip(&["-n", &namespace, "link", "set", device, "up"])?;
        }
        self.filter(node, &BTreeMap::new())
    }

    /// Makes a cable with `add` at one end and a port of the bridge, of this name, at the other.
    fn plug(&self, port: &str, add: &[&str]) -> Result<()> {
        let switch = self.name("sw");
        ip(&[add, &["type", "veth", "peer", "name", port, "netns", &switch]].concat())?;
        ip(&["-n", &switch, "link", "set", port, "master", BRIDGE, "up"])
    }

    /// Where the nodes run.
    pub(crate) fn sites(&self) -> Vec<Site> {
        let site = |node| {
            let enter = ["ip", "netns", "exec", &self.namespace(node)].map(str::to_owned).to_vec();
            Site { host: IpAddr::V4(self.host(node)), enter }
        };
        (1..=self.count).map(site).collect()
    }

    pub(super) fn apply(&mut self, rules: &BTreeMap<Link, Rule>) -> Result<()> {
        (1..=self.count).try_for_each(|node| self.filter(node, rules))
    }

    /// Packets that were caught, whatever was done with them.
    pub(super) fn effects(&self) -> Result<Effects> {
        let mut held = self.caught;
        for node in self.filters.keys() {
            held += self.packets(*node)?;
        }
        Ok(Effects { held, ..Effects::default() })
    }

    /// What the filter at a node's door has caught; nothing is asked where it lets all pass.
    fn packets(&self, node: u64) -> Result<u64> {
        if self.filters.get(&node).is_none_or(|filter| filter.is_empty()) {
            return Ok(0);
        }
        let mut command = self.inside(node, "nft");
        output(command.args(["list", "table", "inet", &self.run])).map(|listing| packets(&listing))
    }

    /// Replaces the filter at a node's door, if it is another one.
    fn filter(&mut self, node: u64, rules: &BTreeMap<Link, Rule>) -> Result<()> {
        let mut filter = String::new();
        for ((from, _), rule) in rules.iter().filter(|((_, to), _)| *to == node) {
            if let Some(verdict) = verdict(*rule)? {
                let _ = writeln!(filter, "    ip saddr {} {verdict}", self.host(*from));
            }
        }
        if self.filters.get(&node) == Some(&filter) {
            return Ok(());
        }
        // The counters go with the filter.
        self.caught += self.packets(node)?;
        let text = format!(
            "table inet {run} {{}}\ndelete table inet {run}\ntable inet {run} {{\n  chain input {{\n    \
             type filter hook input priority 0; policy accept;\n{filter}  }}\n}}\n",
            run = self.run
        );
        let mut command = self.inside(node, "nft");
        let mut child = command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut pipe = child.stdin.take().context("nft without a pipe")?;
        pipe.write_all(text.as_bytes()).context("nft")?;
        drop(pipe);
        let answer = child.wait_with_output().context("nft")?;
        ensure!(answer.status.success(), "nft: {}{text}", String::from_utf8_lossy(&answer.stderr));
        self.filters.insert(node, filter);
        Ok(())
    }

    fn inside(&self, node: u64, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(node), program]);
        command
    }

    fn namespace(&self, node: u64) -> String {
        self.name(&format!("n{node}"))
    }

    fn name(&self, what: &str) -> String {
        format!("{}{what}", self.run)
    }

    fn host(&self, last: u64) -> Ipv4Addr {
        let [one, two, three] = self.network;
        Ipv4Addr::new(one, two, three, last as u8)
    }
}

/// What the filter does with a packet; nothing for a rule that lets it pass.
fn verdict(rule: Rule) -> Result<Option<String>> {
    if !rule.delay.is_zero() || !rule.jitter.is_zero() || rule.bytes_per_s.is_some() {
        bail!("a packet filter cannot do {rule:?}");
    }
    Ok(match (rule.passage, rule.loss_percent) {
        (Passage::Silent, _) => Some("counter drop".to_owned()),
        (Passage::Refused, _) => Some("meta l4proto tcp counter reject with tcp reset".to_owned()),
        (Passage::Open, 0) => None,
        (Passage::Open, percent) => Some(format!("numgen random mod 100 < {percent} counter drop")),
    })
}

/// The sum of all counters in a listing.
fn packets(listing: &str) -> u64 {
    let words = listing.split_whitespace().collect::<Vec<_>>();
    let counts = words.windows(2).filter(|pair| pair[0] == "packets");
    counts.filter_map(|pair| pair[1].parse::<u64>().ok()).sum()
}

/// Three bytes of a private network that no interface and no route has.
fn unused_network(random: &mut Random) -> Result<[u8; 3]> {
    let mut known = output(Command::new("ip").args(["-4", "addr", "show"]))?;
    known.push_str(&output(Command::new("ip").args(["-4", "route", "show", "table", "all"]))?);
    for _ in 0..NETWORKS_TRIED {
        let network = [10, random.below(256) as u8, random.below(256) as u8];
        let [one, two, three] = network;
        if !known.contains(&format!("{one}.{two}.")) {
            return Ok([one, two, three]);
        }
    }
    bail!("no unused network found in {NETWORKS_TRIED} tries")
}

fn ip(arguments: &[&str]) -> Result<()> {
    output(Command::new("ip").args(arguments)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_becomes_a_verdict_and_one_that_filters_cannot_do_is_an_error() {
        let verdict_of = |rule| verdict(rule).expect("can be done");
        assert_eq!(verdict_of(Rule::default()), None);
        assert_eq!(verdict_of(Rule::passage(Passage::Silent)).as_deref(), Some("counter drop"));
        let loss = Rule { loss_percent: 20, ..Rule::default() };
        assert!(verdict_of(loss).is_some_and(|text| text.contains("< 20")));
        assert!(verdict(Rule { bytes_per_s: Some(1), ..Rule::default() }).is_err());
    }

    #[test]
    fn the_counters_of_a_listing_are_summed() {
        let listing = "ip saddr 10.1.2.3 counter packets 12 bytes 900 drop\n counter packets 3 bytes 1";
        assert_eq!(packets(listing), 15);
        assert_eq!(packets("chain input { }"), 0);
    }
}
