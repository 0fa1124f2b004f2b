//! The status page: one HTML document without assets of others, and the runbook that it quotes. Both are for everybody and
//! say nothing of this daemon; what the page shows it asks the API for, with the token of whoever looks.
//!
//! The page's own script and style are allowed by their hashes and nothing else is, so that no text of an event or a log
//! line could become one even if the page had a mistake.

use std::sync::LazyLock;

use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::Full;
use hyper::Response;
use sha2::{Digest, Sha256};

use super::fault::answer;

const PAGE: &str = include_str!("page/index.html");
const RUNBOOK: &str = include_str!("../../docs/runbook.md");

/// The page.
pub(super) fn page() -> Response<Full<Bytes>> {
    static POLICY: LazyLock<Option<HeaderValue>> = LazyLock::new(|| HeaderValue::from_str(&policy()).ok());
    let Some(policy) = POLICY.clone() else {
        return answer(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "the page has no policy\n");
    };
    let mut response = answer(StatusCode::OK, "text/html; charset=utf-8", PAGE);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    response
}

/// What to do when something is wrong.
pub(super) fn runbook() -> Response<Full<Bytes>> {
    answer(StatusCode::OK, "text/markdown; charset=utf-8", RUNBOOK)
}

fn policy() -> String {
    let hash = |tag: &str| BASE64_STANDARD.encode(Sha256::digest(inside(tag).as_bytes()));
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
        hash("script"),
        hash("style")
    )
}

/// What stands in the page's one element of this name.
fn inside(tag: &str) -> &'static str {
    let rest = PAGE.split_once(&format!("<{tag}>")).map_or("", |(_, rest)| rest);
    rest.split_once(&format!("</{tag}>")).map_or("", |(inside, _)| inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_stands_by_itself_and_takes_no_markup_from_anybody() {
        assert_eq!((PAGE.matches("<script>").count(), PAGE.matches("<style>").count()), (1, 1));
        assert!(inside("script").len() > 1000 && inside("style").len() > 1000);
        for foreign in
            ["src=", "http://", "https://", "@import", "url(", " style=", " onclick", "javascript:"]
        {
            assert!(!PAGE.contains(foreign), "{foreign}");
        }
        for markup in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage"]
        {
            assert!(!PAGE.contains(markup), "{markup}");
        }
    }
}
