//! The admin API of the real binary, with a simulated gateway. Every answer is held against the OpenAPI document.

mod agents;
mod change;
mod cli;
mod client;
mod feed;
mod letters;
mod page;
mod reload;
mod scene;
mod through;
mod tokens;
