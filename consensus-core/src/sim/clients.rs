//! Clients: each has one transaction at a time, submits it until it is acknowledged, and remembers what it
//! was told.
//!
//! A client asks the node that it believes to lead; after a refusal it follows the hint, after silence it
//! tries any node. It never gives up, so a transaction may reach the log more than once.

use super::application::{Place, Submission};
use super::invariants::Acknowledgement;
use super::rng::{Rng, Stream};
use super::schedule::MILLISECOND;
use super::swarm::Workload;

/// What a node answers to a submission.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    /// It is in the chain.
    Committed(Place),
    /// This node does not take it; the hint is a node id.
    Refused(Option<u64>),
}

/// A submission on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// The client.
    pub client: usize,
    /// Counts the client's attempts.
    pub attempt: u64,
    /// The transaction.
    pub submission: Submission,
    /// Position of the node.
    pub node: usize,
    /// When it arrives; `None`: lost.
    pub arrives_us: Option<u64>,
    /// When the client stops waiting.
    pub patience_us: u64,
}

/// What a client does after a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Nothing: the reply is stale.
    Nothing,
    /// Try again at this time.
    RetryAt(u64),
    /// It was acknowledged; the next transaction begins at this time.
    Acknowledged(Acknowledgement, u64),
}

#[derive(Debug)]
struct Client {
    workload: Rng,
    link: Rng,
    number: u64,
    bytes: u64,
    submitted_us: u64,
    attempt: u64,
    acknowledged: bool,
    /// The node that it takes for the leader, or tries next.
    leader: Option<usize>,
    /// The node that it tried last of itself, not because of a hint.
    turn: usize,
}

/// All clients.
#[derive(Debug)]
pub struct Clients {
    clients: Vec<Client>,
    nodes: u64,
    workload: Workload,
    loss: u32,
    retired: bool,
}

impl Clients {
    /// Clients that have not submitted anything; `loss` counts lost messages in a million.
    pub fn new(seed: u64, nodes: u64, workload: &Workload, loss: u32) -> Self {
        let client = |client| Client {
            workload: Rng::new(seed, Stream::Workload, client),
            link: Rng::new(seed, Stream::ClientLink, client),
            number: 0,
            bytes: 0,
            submitted_us: 0,
            attempt: 0,
            acknowledged: true,
            leader: None,
            turn: 0,
        };
        let clients = (0..workload.clients).map(client).collect();
        Self { clients, nodes, workload: workload.clone(), loss, retired: false }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Faults end and everybody is busy: short pauses, no losses.
    pub fn quieten(&mut self) {
        self.loss = 0;
        self.workload.think_us = self.workload.think_us.min(100 * MILLISECOND);
    }

    /// No new transactions.
    pub fn retire(&mut self) {
        self.retired = true;
    }

    /// Whether there are no new transactions.
    pub fn retired(&self) -> bool {
        self.retired
    }

    /// Whether every transaction is acknowledged.
    pub fn content(&self) -> bool {
        self.clients.iter().all(|client| client.acknowledged)
    }

    /// A client's pause before it begins.
    pub fn pause_us(&mut self, client: usize) -> u64 {
        let think_us = self.workload.think_us;
        self.clients[client].workload.exponential(think_us)
    }

    /// A client begins its next transaction; `None` if it is retired.
    pub fn begin(&mut self, client: usize, now_us: u64) -> Option<Attempt> {
        if self.retired || !self.clients[client].acknowledged {
            return None;
        }
        let bytes_max = self.workload.bytes_max;
        let this = &mut self.clients[client];
        this.number += 1;
        this.bytes = this.workload.between(1, bytes_max);
        this.submitted_us = now_us;
        this.acknowledged = false;
        Some(self.submit(client, now_us))
    }

    fn submit(&mut self, client: usize, now_us: u64) -> Attempt {
        let this = &mut self.clients[client];
        this.attempt += 1;
        let any = this.workload.below(self.nodes) as usize;
        let node = this.leader.unwrap_or(any);
        let latency_us = 50 + this.link.exponential(500);
        let lost = this.link.chance(self.loss);
        Attempt {
            client,
            attempt: this.attempt,
            submission: Submission { client: client as u64, number: this.number, bytes: this.bytes },
            node,
            arrives_us: (!lost).then_some(now_us + latency_us),
            patience_us: now_us + self.workload.patience_us,
        }
    }

    /// When a node's reply, sent now, reaches the client; `None`: it is lost.
    pub fn reply_arrives_us(&mut self, client: usize, now_us: u64) -> Option<u64> {
        let link = &mut self.clients[client].link;
        let latency_us = 50 + link.exponential(500);
        (!link.chance(self.loss)).then_some(now_us + latency_us)
    }

    /// A client has waited long enough for this attempt, or wants to try again: it does unless it was told.
    pub fn retry(&mut self, client: usize, attempt: u64, now_us: u64) -> Option<Attempt> {
        let this = &mut self.clients[client];
        if this.acknowledged || this.attempt != attempt {
            return None;
        }
        Some(self.submit(client, now_us))
    }

    /// A client's patience ends: it does not believe in the node any more that it asked, and tries all in turn. Those
    /// that hint at a node that is gone do not bring it back to where it was.
    pub fn lose_patience(&mut self, client: usize, attempt: u64, now_us: u64) -> Option<Attempt> {
        let this = &mut self.clients[client];
        if this.attempt == attempt {
            this.turn = (this.turn + 1) % self.nodes as usize;
            this.leader = Some(this.turn);
        }
        self.retry(client, attempt, now_us)
    }

    /// A reply arrives; `node` sent it.
    pub fn reply(&mut self, client: usize, number: u64, node: usize, reply: Reply, now_us: u64) -> Next {
        let think_us = self.workload.think_us;
        let this = &mut self.clients[client];
        if this.acknowledged || this.number != number {
            return Next::Nothing;
        }
        let place = match reply {
            Reply::Refused(hint) => {
                this.leader = hint.map(|id| id as usize - 1);
                return Next::RetryAt(now_us + 5 * MILLISECOND + this.workload.exponential(40 * MILLISECOND));
            }
            Reply::Committed(place) => place,
        };
        this.acknowledged = true;
        this.leader = Some(node);
        let acknowledgement = Acknowledgement {
            client: client as u64,
            number,
            submitted_us: this.submitted_us,
            acknowledged_us: now_us,
            height: place.height,
            position: place.position,
            hash: place.hash,
        };
        Next::Acknowledged(acknowledgement, now_us + this.workload.exponential(think_us))
    }

    /// The attempt that a client waits for.
    pub fn attempt(&self, client: usize) -> u64 {
        self.clients[client].attempt
    }
}

#[cfg(test)]
mod tests {
    use super::super::swarm::Swarm;
    use super::*;
    use crate::ids::Hash;

    #[test]
    fn a_client_repeats_its_transaction_until_it_is_told() {
        let mut clients = Clients::new(1, 4, &Swarm::derive(1).workload, 0);
        let first = clients.begin(0, 10).unwrap();
        assert_eq!(clients.begin(0, 11), None, "one transaction at a time");
        let again = clients.lose_patience(0, first.attempt, 500).unwrap();
        assert_eq!((again.submission, again.node), (first.submission, 1));
        assert_eq!(clients.lose_patience(0, first.attempt, 501), None, "that attempt is over");
        let Next::RetryAt(at_us) = clients.reply(0, 1, 2, Reply::Refused(Some(2)), 600) else {
            panic!("refused")
        };
        let hinted = clients.retry(0, again.attempt, at_us).unwrap();
        assert_eq!(hinted.node, 1);
        let elsewhere = clients.lose_patience(0, hinted.attempt, at_us + 500).unwrap();
        assert_eq!(elsewhere.node, 2, "whoever gives the hint is not asked again");
        let place = Place { height: 2, position: 0, hash: Hash::default() };
        let Next::Acknowledged(told, _) = clients.reply(0, 1, 1, Reply::Committed(place), 900) else {
            panic!("told")
        };
        assert_eq!((told.submitted_us, told.acknowledged_us, told.height), (10, 900, 2));
        assert_eq!(clients.reply(0, 1, 1, Reply::Committed(place), 901), Next::Nothing);
        assert!(clients.content());
    }
}
