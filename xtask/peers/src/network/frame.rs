//! What the stand-in networks say to each other: a hello each, then frames, over one TCP connection for each
//! direction.
//!
//! Every message on the wire is its length as four bytes, big-endian, and its encoding.

use std::io;

use bytes::{Bytes, BytesMut};
use consensus_proto::cita::network::NetworkMsg;
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Largest message.
const BYTES_MAX: usize = 1 << 30;

/// Who is at the other end.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Hello {
    #[prost(uint64, tag = "1")]
    pub(super) chain: u64,
    #[prost(uint64, tag = "2")]
    pub(super) node: u64,
    #[prost(uint64, tag = "3")]
    pub(super) validator: u64,
}

impl Hello {
    /// What the node at the other end listens to.
    pub(super) fn origins(&self) -> [u64; 2] {
        [self.node, self.validator]
    }
}

/// A message on its way; the origin in it is the sender's.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Frame {
    #[prost(message, optional, tag = "1")]
    pub(super) message: Option<NetworkMsg>,
}

/// Writes one message.
pub(super) async fn write(to: &mut (impl AsyncWrite + Unpin), encoded: &[u8]) -> io::Result<()> {
    let length = u32::try_from(encoded.len()).map_err(|_| too_large(encoded.len()))?;
    to.write_all(&length.to_be_bytes()).await?;
    to.write_all(encoded).await
}

/// Reads one message.
pub(super) async fn read<T: Message + Default>(from: &mut (impl AsyncRead + Unpin)) -> io::Result<T> {
    let length = from.read_u32().await? as usize;
    if length > BYTES_MAX {
        return Err(too_large(length));
    }
    let mut buffer = BytesMut::zeroed(length);
    from.read_exact(&mut buffer).await?;
    T::decode(Bytes::from(buffer)).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn too_large(length: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes, at most {BYTES_MAX}"))
}
