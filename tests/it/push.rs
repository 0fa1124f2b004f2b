//! What the callback endpoint makes of good pushes and of everything else that can arrive at a port.

mod bodies;
mod budget;
mod clients;
mod floods;
mod heads;
mod idle;
mod operations;
mod repeats;
mod scan;
mod tls;
mod tokens;
