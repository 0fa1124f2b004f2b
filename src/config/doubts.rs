//! What speaks against a configuration and is no mistake: a start goes on, and a person should know.

use url::Url;

use super::{Config, certificates, plain, secrets, spool_place};
use crate::admin::tokens::TokenList;
use crate::clock::Clock;
use crate::receive::PUSH_PATH;
use crate::session::config::id_doubts;

/// All of it. No secret is in there.
#[must_use]
pub fn doubts(config: &Config) -> Vec<String> {
    let mut doubts: Vec<String> = callbacks(config).chain(id_doubts(&config.sessions)).collect();
    doubts.extend(certificates::doubts(config, Clock::system().now()));
    doubts.extend(spool_place::doubts(config));
    doubts.extend(tokens(config));
    doubts.extend(secrets::doubts(config));
    doubts.extend(plain::doubts(config));
    doubts
}

/// What speaks against the paths of the gateways' `callback_uri`, to which they push: something in between may write them anew.
fn callbacks(config: &Config) -> impl Iterator<Item = String> {
    config.sessions.gateways.iter().filter_map(|gateway| {
        let uri = Url::parse(&gateway.callback_uri).ok()?;
        let path = uri.path();
        let ours = format!("{PUSH_PATH}{}", gateway.name);
        (path.strip_suffix('/').unwrap_or(path) != ours).then(|| {
            format!(
                "the path of callback_uri of the gateway {} is {path:?}, but pushes are taken at {ours:?}: unless something \
                 in between rewrites it, every push is answered with 404, and the gateway signs its agents out",
                gateway.name
            )
        })
    })
}

/// A token without a scope may do everything, which is more often forgotten than meant.
fn tokens(config: &Config) -> Option<String> {
    let file = config.operations.admin_tokens_file.as_deref()?;
    let list = TokenList::read_if_there(file).ok()?;
    let lines: Vec<String> = list.unscoped().iter().map(usize::to_string).collect();
    (!lines.is_empty()).then(|| {
        format!(
            "operations.admin_tokens_file: these lines of {} name no scope, so that their tokens may do everything: {}; write admin \
             or read in front",
            file.display(),
            lines.join(", ")
        )
    })
}
