//! Dead letters: list, one with its record, export, replay and discard. In the words of `ccrelay deadletters`. Who may only look
//! gets them without what could be personal, as in the feed.

use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::json;

use super::api::{Answer, Call, Query, query};
use super::fault::{Fault, answer, json as answer_json, no_content};
use super::feed::Veiled;
use super::tokens::Scope;
use crate::clock::Timestamp;
use crate::deliver::misnamed;
use crate::spool::{AppendError, LetterFilter, LetterSight, OpenError};

/// `after` of the next page of an export.
const NEXT: HeaderName = HeaderName::from_static("ccrelay-next");
/// An export is held in memory: its page ends when it has so many bytes.
const EXPORT_BYTES: usize = 8 << 20;

/// What stands in a query to say which letters.
const WHICH: [&str; 3] = ["sink", "reason", "since"];

fn filter(query: &Query<'_>) -> Result<LetterFilter, Fault> {
    let since = query.text("since").map(str::parse::<Timestamp>).transpose();
    let since = since.map_err(|_| Fault::bad_request("since is a time such as 2026-11-24T03:00:00Z"))?;
    let text = |name| query.text(name).map(str::to_owned);
    Ok(LetterFilter { ids: Vec::new(), sink: text("sink"), reason: text("reason"), since })
}

/// Filter, `after` and `limit` of a page.
fn page(call: &Call<'_>) -> Result<(LetterFilter, u64, usize), Fault> {
    let [sink, reason, since] = WHICH;
    let query = query(call.query, &[sink, reason, since, "limit", "after"])?;
    let after = query.text("after").unwrap_or("0").parse();
    let after =
        after.map_err(|_| Fault::bad_request("after is the number that next of the page before said"))?;
    Ok((filter(&query)?, after, query.limit()?))
}

/// What this caller may see of them.
fn sight(call: &Call<'_>) -> Box<dyn LetterSight + Send + Sync> {
    match call.scope {
        Scope::Admin => Box::new(call.parts.sight.clone()),
        Scope::Read => Box::new(Veiled::new(&call.parts.sight)),
    }
}

/// Refuses a name that is misspelt: it would find nothing, which looks as if there were nothing.
async fn check_names(call: &Call<'_>, filter: &LetterFilter, after: u64) -> Result<(), Fault> {
    // Names in use are looked for in all letters: not where there is nothing to compare, and not for each page.
    if after > 0 || (filter.sink.is_none() && filter.reason.is_none()) {
        return Ok(());
    }
    let known = call.parts.spool.known_names().await.map_err(unreadable)?;
    misnamed(filter, &known).map_or(Ok(()), |why| Err(Fault::bad_request(why)))
}

pub(super) async fn list(call: &Call<'_>) -> Answer {
    let (filter, after, limit) = page(call)?;
    check_names(call, &filter, after).await?;
    // One more than asked for tells whether there is a next page.
    let mut letters = call.parts.spool.letters(filter, after, limit + 1).await.map_err(unreadable)?;
    let more = letters.len() > limit;
    letters.truncate(limit);
    let next = letters.last().filter(|_| more).map(|letter| letter.id.to_string());
    Ok(answer_json(StatusCode::OK, &json!({ "dead_letters": letters, "next": next })))
}

pub(super) async fn show(call: &Call<'_>) -> Answer {
    query(call.query, &[])?;
    let letter = call.parts.spool.letter(id(call)?).await.map_err(unreadable)?.ok_or_else(no_such_letter)?;
    Ok(answer_json(StatusCode::OK, &letter.shown(call.parts.spool.id(), &*sight(call))))
}

pub(super) async fn export(call: &Call<'_>) -> Answer {
    let (filter, after, limit) = page(call)?;
    check_names(call, &filter, after).await?;
    let spool = &call.parts.spool;
    let sight = sight(call);
    let letters = spool.letters(filter, after, limit + 1).await.map_err(unreadable)?;
    let (mut lines, mut next) = (Vec::new(), None);
    for (index, stored) in letters.iter().enumerate() {
        if index == limit || lines.len() >= EXPORT_BYTES {
            next = index.checked_sub(1).and_then(|last| letters.get(last)).map(|last| last.id);
            break;
        }
        // It may have been delivered or discarded since the page was read.
        let Some(letter) = spool.letter(stored.id).await.map_err(unreadable)? else { continue };
        for line in letter.exported(spool.id(), &*sight) {
            lines.extend_from_slice(line.to_string().as_bytes());
            lines.push(b'\n');
        }
    }
    let mut response = answer(StatusCode::OK, "application/x-ndjson", lines);
    if let Some(next) = next {
        response.headers_mut().insert(NEXT, HeaderValue::from(next));
    }
    Ok(response)
}

pub(super) async fn replay_one(call: &Call<'_>) -> Answer {
    no_arguments(call)?;
    let id = id(call)?;
    if call.parts.spool.letter(id).await.map_err(unreadable)?.is_none() {
        return Err(no_such_letter());
    }
    let count = call.parts.spool.replay_letters(only(id)).await.map_err(unwritten)?;
    Ok(answer_json(StatusCode::ACCEPTED, &json!({ "replaying": count })))
}

pub(super) async fn replay(call: &Call<'_>) -> Answer {
    let count = call.parts.spool.replay_letters(which(call).await?).await.map_err(unwritten)?;
    Ok(answer_json(StatusCode::ACCEPTED, &json!({ "replaying": count })))
}

pub(super) async fn discard_one(call: &Call<'_>) -> Answer {
    no_arguments(call)?;
    match call.parts.spool.discard_letters(only(id(call)?)).await.map_err(unwritten)? {
        0 => Err(no_such_letter()),
        _ => Ok(no_content()),
    }
}

pub(super) async fn discard(call: &Call<'_>) -> Answer {
    let count = call.parts.spool.discard_letters(which(call).await?).await.map_err(unwritten)?;
    Ok(answer_json(StatusCode::OK, &json!({ "discarded": count })))
}

/// The letters that a query names; all of them only when it says so.
async fn which(call: &Call<'_>) -> Result<LetterFilter, Fault> {
    let [sink, reason, since] = WHICH;
    let query = query(call.query, &[sink, reason, since, "all"])?;
    let filter = filter(&query)?;
    let all = match query.text("all") {
        None => false,
        Some("true") => true,
        Some(_) => return Err(Fault::bad_request("all can be true only")),
    };
    if !call.body.is_empty() {
        return Err(Fault::bad_request("this takes no body"));
    }
    if (filter == LetterFilter::default()) != all {
        return Err(Fault::bad_request("say which: sink, reason, since, or all=true and none of them"));
    }
    check_names(call, &filter, 0).await?;
    Ok(filter)
}

fn only(id: u64) -> LetterFilter {
    LetterFilter { ids: vec![id], ..LetterFilter::default() }
}

fn id(call: &Call<'_>) -> Result<u64, Fault> {
    call.params.text("id").parse().map_err(|_| no_such_letter())
}

fn no_arguments(call: &Call<'_>) -> Result<(), Fault> {
    query(call.query, &[])?;
    if call.body.is_empty() { Ok(()) } else { Err(Fault::bad_request("this takes no body")) }
}

fn no_such_letter() -> Fault {
    Fault::not_found("there is no such dead letter")
}

fn unreadable(error: OpenError) -> Fault {
    Fault::internal("the dead letters cannot be read", &error)
}

fn unwritten(error: AppendError) -> Fault {
    match error {
        AppendError::Closed => Fault::unavailable("ccrelay is stopping"),
        AppendError::Full | AppendError::Failed => Fault::internal("the spool cannot be changed", &error),
    }
}
