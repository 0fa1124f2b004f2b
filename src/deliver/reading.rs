//! From the spool to what waits to be handed over: records are read in batches and made into events, of which only so many are in
//! memory at a time. A record with a list of many goes piece by piece.

use std::sync::Arc;

use super::{
    DeliveryError, Ended, Flow, READ_BYTES, READ_RECORDS, Repeats, ReplayOf, Waiting, Worker,
    leave_out_settled,
};
use crate::clock::Timestamp;
use crate::event::Event;
use crate::event::normalise::{self, NormaliseError, Piece, Place};
use crate::sink::Message;
use crate::spool::{ReadRecord, Record};

/// Elements of a record's list of which events are made at a time: some megabytes of events. The list is taken apart anew for each.
const PIECE: usize = 4096;

impl Worker {
    /// Reads on, until enough events wait or a batch of records is over.
    pub(super) async fn read(&mut self, flow: &mut Flow) -> Result<(), Ended> {
        // What was given up in the meantime is not delivered.
        flow.next = flow.next.max(self.reader.cursor());
        // The events of records that are in memory are made once for all sinks.
        if let Some(records) = self.reader.recent(flow.next, READ_RECORDS) {
            for recent in records {
                let record = &recent.record;
                match recent.events(self.spool.id()) {
                    Ok(Some(events)) => self.prepare(flow, record, events.to_vec(), true),
                    Ok(None) => self.begin(flow, record.clone()).await?,
                    Err(error) => self.set_aside_unreadable(flow, record, error).await?,
                }
                flow.next = record.offset + 1;
                if flow.is_full() {
                    break;
                }
            }
            return Ok(());
        }
        let records = self.reader.read(flow.next, READ_RECORDS, READ_BYTES).await;
        let records = records.map_err(|error| DeliveryError::retry("spool", error.to_string()))?;
        for record in records {
            let offset = record.offset();
            match record {
                ReadRecord::Good(record) => self.begin(flow, Arc::new(record)).await?,
                ReadRecord::Damaged { fault, .. } => {
                    self.set_aside_record(flow, offset, Timestamp(0), fault).await?
                }
            }
            flow.next = offset + 1;
            if flow.is_full() {
                break;
            }
        }
        Ok(())
    }

    /// Queues the first events of a record; one of which none can be made is set aside.
    async fn begin(&mut self, flow: &mut Flow, record: Arc<Record>) -> Result<(), Ended> {
        match self.first_piece(&record) {
            Ok(piece) => self.queue_piece(flow, &record, piece),
            Err(error) => return self.set_aside_unreadable(flow, &record, &error).await,
        }
        // Nothing of it may go to this sink until later in its list.
        if flow.waiting.is_empty() { self.go_on(flow).await } else { Ok(()) }
    }

    /// Queues further events of the record that is not over.
    pub(super) async fn go_on(&mut self, flow: &mut Flow) -> Result<(), Ended> {
        while flow.waiting.is_empty()
            && let Some((record, place)) = flow.rest.take()
        {
            match normalise::piece(&record.view(self.spool.id()), Some(&place), PIECE) {
                Ok(piece) => self.queue_piece(flow, &record, piece),
                Err(error) => self.set_aside_unreadable(flow, &record, &error).await?,
            }
        }
        Ok(())
    }

    /// The first piece that is not settled as a whole.
    fn first_piece(&self, record: &Record) -> Result<Piece, NormaliseError> {
        let view = record.view(self.spool.id());
        if let Some((_, id)) = self.settled.as_ref().filter(|(offset, _)| *offset == record.offset)
            && let Some(piece) = normalise::piece_with(&view, id, PIECE)?
        {
            return Ok(piece);
        }
        normalise::piece(&view, None, PIECE)
    }

    fn queue_piece(&self, flow: &mut Flow, record: &Arc<Record>, piece: Piece) {
        let Piece { events, rest } = piece;
        self.prepare(flow, record, events.into_iter().map(Arc::new).collect(), rest.is_none());
        flow.rest = rest.map(|place: Place| (record.clone(), place));
    }

    /// Queues events of a record, which is over with them or not.
    fn prepare(&self, flow: &mut Flow, record: &Record, mut events: Vec<Arc<Event>>, over: bool) {
        let (offset, received_at) = (record.offset, record.received_at);
        leave_out_settled(self.settled.as_ref(), offset, &mut events);
        if self.config.repeats == Repeats::Drop {
            let all = events.len();
            events.retain(|event| !event.repeat);
            self.meter.repeats_dropped(all - events.len());
        }
        if self.queue(flow, (offset, received_at), events, None, over) == 0 && over {
            flow.waiting.push_back(Waiting::nothing(offset, received_at));
        }
    }

    async fn set_aside_unreadable(
        &mut self,
        flow: &mut Flow,
        record: &Record,
        error: &NormaliseError,
    ) -> Result<(), Ended> {
        self.set_aside_record(flow, record.offset, record.received_at, &error.to_string()).await
    }

    /// Gives how many messages wait now: there is none for events that no route sends to this sink. With the last of them the
    /// record, or the dead letter, is over where `over` says so.
    pub(super) fn queue(
        &self,
        flow: &mut Flow,
        (offset, received_at): (u64, Timestamp),
        events: Vec<Arc<Event>>,
        replay: Option<ReplayOf>,
        over: bool,
    ) -> usize {
        let (router, trace) = (self.config.way.load(), self.traces.context(offset));
        let (mut count, mut unrouted) = (0, 0);
        for event in events {
            let message = self.message(&router, event, trace, replay.is_some());
            unrouted += usize::from(message.as_ref().is_none_or(Message::is_state));
            if message.is_none() {
                continue;
            }
            flow.waiting.push_back(Waiting { offset, ends_record: false, received_at, message, replay });
            count += 1;
        }
        self.meter.unrouted(unrouted);
        if over
            && count > 0
            && let Some(last) = flow.waiting.back_mut()
        {
            last.ends_record = true;
        }
        count
    }
}
