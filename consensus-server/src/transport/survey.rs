//! How the other nodes stand, asked from themselves: for the page that shows a whole cluster.
//!
//! Every peer is asked at once and within a second, over a connection that is kept. Whoever asks while an answer
//! is fresh gets that one, so that many open pages cost no more than one. Nothing is decided by what comes back.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use consensus_core::ids::NodeId;
use consensus_proto::admin::NodeStatus;
use consensus_proto::peer::StatusQuestion;
use consensus_proto::peer::peer_client::PeerClient;
use futures_util::future::join_all;
use tokio::sync::Mutex;
use tonic::transport::Channel;

use super::book::Peer;
use super::connect::connect_to;
use super::handshake::Handshake;
use crate::security::dialer::Dialer;

/// A peer that has not answered by then is shown without an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// An answer that is not older serves the next one who asks.
const FRESH: Duration = Duration::from_millis(500);
/// Largest answer: a node's status takes a few kilobytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// What became of the question to one peer.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The peer.
    pub peer: Arc<Peer>,
    /// What it says of itself, or why it says nothing.
    pub answer: Result<NodeStatus, String>,
}

/// Asks the peers of one chain.
pub struct Survey {
    handshake: Arc<Handshake>,
    dialer: Dialer,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    clients: BTreeMap<NodeId, PeerClient<Channel>>,
    newest: Option<(Instant, Vec<Standing>)>,
}

impl fmt::Debug for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Survey").finish_non_exhaustive()
    }
}

impl Survey {
    /// Connects to nobody yet.
    pub fn new(handshake: Arc<Handshake>, dialer: Dialer) -> Self {
        Self { handshake, dialer, kept: Mutex::default() }
    }

    /// How every peer stands, ascending by node; after a second at the latest.
    pub async fn ask(&self) -> Vec<Standing> {
        let mut kept = self.kept.lock().await;
        if let Some((at, newest)) = &kept.newest
            && at.elapsed() <= FRESH
        {
            return newest.clone();
        }
        let questions = self.handshake.book().iter().map(|peer| {
            let client = kept.clients.get(&peer.node_id()).cloned();
            self.ask_one(peer.clone(), client)
        });
        let mut standings = Vec::new();
        let answers = join_all(questions).await;
        kept.clients.clear();
        for (standing, client) in answers {
            kept.clients.extend(client.map(|client| (standing.peer.node_id(), client)));
            standings.push(standing);
        }
        kept.newest = Some((Instant::now(), standings.clone()));
        standings
    }

    /// Also the connection, if it is worth keeping.
    async fn ask_one(
        &self,
        peer: Arc<Peer>,
        client: Option<PeerClient<Channel>>,
    ) -> (Standing, Option<PeerClient<Channel>>) {
        let asking = async {
            let mut client = match client {
                Some(client) => client,
                None => PeerClient::new(connect_to(&peer, &self.dialer).await?)
                    .max_decoding_message_size(ANSWER_BYTES_MAX),
            };
            let question = StatusQuestion { hello: Some(self.handshake.hello(peer.node_id())) };
            let answer = client.status(question).await.map_err(|status| status.message().to_owned())?;
            Ok((answer.into_inner(), client))
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, asking).await {
            Ok(Ok((status, client))) => (Standing { peer, answer: Ok(status) }, Some(client)),
            Ok(Err(why)) => (Standing { peer, answer: Err(why) }, None),
            Err(_) => {
                let why = format!("no answer within {} ms", ANSWER_TIMEOUT.as_millis());
                (Standing { peer, answer: Err(why) }, None)
            }
        }
    }
}
