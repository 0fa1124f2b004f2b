//! The simulator over real sockets: each rule of the interface, and each way to break it.

mod calls;
mod flows;
mod guid;
mod play;
mod polling;
mod pushing;
mod sign_in;
mod sign_out;
mod support;
mod voice;
mod wire;
