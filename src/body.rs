//! Bodies that somebody else sends, read into one piece of memory.
//!
//! A body comes in as many pieces as its sender likes, one for each byte if he wants to. A list of them takes many times the memory of
//! the body itself, so each piece is copied to those before it as soon as it comes: a body never takes more than twice its bytes.
//! Large bodies that are under way at a time share a [`Room`].

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;
use thiserror::Error;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Bytes of a body that needs no place: nearly all are far smaller.
const SMALL: usize = 64 * 1024;
/// Bytes of all large bodies at a time. The largest that the configuration allows has just room in it.
const ROOM: usize = 64 << 20;
/// Bytes of one permit: a semaphore counts them in 32 bits.
const PERMIT: usize = 1024;

/// Memory for large bodies. Where it is full the next one waits: it stays with its sender, in the order of asking.
#[derive(Debug)]
pub(crate) struct Room(Semaphore);

/// A body's place in a room, until this is dropped.
pub(crate) type Place<'a> = SemaphorePermit<'a>;

impl Default for Room {
    fn default() -> Room {
        Room(Semaphore::new(ROOM / PERMIT))
    }
}

impl Room {
    /// A place for all of a body, at once: one that had its place piece by piece could wait for another that waits for it.
    async fn place(&self, bytes: usize) -> Option<Place<'_>> {
        let permits = bytes.min(ROOM).div_ceil(PERMIT);
        // Fails only when it is closed, which it never is.
        self.0.acquire_many(u32::try_from(permits).unwrap_or(u32::MAX)).await.ok()
    }
}

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
pub(crate) async fn read<B>(body: B, limit: usize) -> Result<Bytes, BodyFault<B::Error>>
where
    B: Body<Data = Bytes> + Unpin,
{
    Ok(read_into(None, body, limit).await?.0)
}

/// The same; a large body comes with its place in the room, to be kept for as long as the body is.
///
/// # Cancel safety
/// What has come is lost when this is dropped.
pub(crate) async fn read_into<B>(
    room: Option<&Room>,
    mut body: B,
    limit: usize,
) -> Result<(Bytes, Option<Place<'_>>), BodyFault<B::Error>>
where
    B: Body<Data = Bytes> + Unpin,
{
    let (mut whole, mut place) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        // What comes behind a body, its trailers, is of no use.
        let Ok(piece) = frame.map_err(BodyFault::Broken)?.into_data() else { continue };
        if piece.len() > limit - whole.len() {
            return Err(BodyFault::TooLong { limit });
        }
        let so_far = whole.len() + piece.len();
        if let Some(room) = room.filter(|_| so_far > SMALL && place.is_none()) {
            let to_come = body.size_hint().upper().and_then(|bytes| usize::try_from(bytes).ok());
            place = room.place(so_far.saturating_add(to_come.unwrap_or(limit)).min(limit)).await;
        }
        if whole.is_empty() {
            // Most bodies are one piece, which takes just the room that it needs.
            whole.reserve_exact(piece.len());
        }
        whole.extend_from_slice(&piece);
    }
    Ok((Bytes::from(whole.into_boxed_slice()), place))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::pin;

    use futures_util::{FutureExt, stream};
    use http_body_util::{Full, StreamBody};
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

    fn free(room: &Room) -> usize {
        room.0.available_permits() * PERMIT
    }

    #[tokio::test]
    async fn large_bodies_have_places_for_as_long_as_they_are_kept_and_one_too_many_waits() {
        let room = Room::default();
        let limit = ROOM * 3 / 4;
        let pieces = |count: usize| {
            let piece = || Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b'x'; SMALL])));
            StreamBody::new(stream::iter((0..count).map(move |_| piece())))
        };
        let (small, none) = read_into(Some(&room), pieces(1), limit).await.unwrap();
        assert!(small.len() == SMALL && none.is_none() && free(&room) == ROOM);
        // It may become as large as is allowed.
        let (large, place) = read_into(Some(&room), pieces(2), limit).await.unwrap();
        assert!(large.len() == 2 * SMALL && free(&room) == ROOM / 4);
        let mut next = pin!(read_into(Some(&room), pieces(2), limit));
        assert!(next.as_mut().now_or_never().is_none());
        assert!(read_into(Some(&room), pieces(1), limit).now_or_never().is_some(), "small ones do not");
        drop(place);
        let (next, place) = next.await.unwrap();
        assert!(next.len() == 2 * SMALL && place.is_some());
        drop(place);
        assert_eq!(free(&room), ROOM);
    }

    #[tokio::test]
    async fn a_body_of_known_length_takes_no_more_than_that_and_a_lie_no_more_than_all() {
        let room = Room::default();
        let body = Full::new(Bytes::from(vec![b'x'; 2 * SMALL]));
        let (_, place) = read_into(Some(&room), body, ROOM).await.unwrap();
        assert_eq!(free(&room), ROOM - 2 * SMALL);
        drop(place);
        assert!(room.place(usize::MAX).await.is_some_and(|all| all.num_permits() == ROOM / PERMIT));
    }
}
