//! Bodies that somebody else sends, read into one piece of memory.
//!
//! A body comes in as many pieces as its sender likes, one for each byte if he wants to. A list of them takes many times the memory of
//! the body itself, so each piece is copied to those before it as soon as it comes: a body never takes more than twice its bytes.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;
use thiserror::Error;

/// A body that is not there whole.
#[derive(Debug, Error)]
pub(crate) enum BodyFault<E> {
    /// Longer than allowed.
    #[error("it is longer than {limit} bytes")]
    TooLong {
        /// Bytes allowed.
        limit: usize,
    },
    /// It ended early, or was not what a body is.
    #[error("{0}")]
    Broken(E),
}

/// All of a body, in memory of its own: the connection's buffer, in which it came, is used again then.
///
/// # Cancel safety
/// What has come is lost when this is dropped.
pub(crate) async fn read<B>(mut body: B, limit: usize) -> Result<Bytes, BodyFault<B::Error>>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        // What comes behind a body, its trailers, is of no use.
        let Ok(piece) = frame.map_err(BodyFault::Broken)?.into_data() else { continue };
        if piece.len() > limit - whole.len() {
            return Err(BodyFault::TooLong { limit });
        }
        if whole.is_empty() {
            // Most bodies are one piece, which takes just the room that it needs.
            whole.reserve_exact(piece.len());
        }
        whole.extend_from_slice(&piece);
    }
    Ok(Bytes::from(whole.into_boxed_slice()))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    async fn read_pieces(pieces: &[&'static str], limit: usize) -> Result<Bytes, String> {
        let frames =
            pieces.iter().map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from_static(piece.as_bytes()))));
        let frames: Vec<_> = frames.chain([Ok(Frame::trailers(http::HeaderMap::new()))]).collect();
        read(StreamBody::new(stream::iter(frames)), limit).await.map_err(|fault| fault.to_string())
    }

    #[tokio::test]
    async fn a_body_is_the_same_in_whatever_pieces_it_comes() {
        for pieces in [&["abcdef"][..], &["a", "b", "c", "d", "e", "f"], &["", "abc", "", "def"]] {
            assert_eq!(read_pieces(pieces, 6).await.unwrap(), "abcdef", "{pieces:?}");
            assert_eq!(read_pieces(pieces, 5).await.unwrap_err(), "it is longer than 5 bytes", "{pieces:?}");
        }
        assert_eq!(read_pieces(&[], 0).await.unwrap(), "");
    }

    /// A piece that says when it is let go.
    struct Piece(std::sync::Arc<std::sync::atomic::AtomicUsize>);

    impl AsRef<[u8]> for Piece {
        fn as_ref(&self) -> &[u8] {
            b"x"
        }
    }

    impl Drop for Piece {
        fn drop(&mut self) {
            self.0.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn no_piece_is_kept_while_others_come() {
        let held = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let mut most = 0;
        let frames = (0..1000).map(|_| {
            let now = held.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
            most = most.max(now);
            Ok::<_, Infallible>(Frame::data(Bytes::from_owner(Piece(held.clone()))))
        });
        let body = read(StreamBody::new(stream::iter(frames)), 1000).await.unwrap();
        assert_eq!((body.len(), most), (1000, 1));
    }
}
