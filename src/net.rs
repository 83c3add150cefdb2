//! The operating system: sockets, interfaces, the clock, timers and tasks, on tokio.
//!
//! No other module reads the clock or opens sockets and files.

pub(crate) mod clock;
mod fault;
pub(crate) mod host_addresses;
pub(crate) mod interfaces;
mod key_log;
#[cfg(feature = "qlog")]
pub(crate) mod log_files;
pub(crate) mod memory;
mod steering;
pub(crate) mod task;
mod timer;
mod udp_socket;
mod unreachable;

pub(crate) use self::{
    fault::Fault,
    key_log::KeyLogFile,
    steering::bind_steered,
    timer::{Timer, sleep},
    udp_socket::{BufferSizes, MoreToRead, ReceiveBuffers, Shortfall, UdpSocket},
    unreachable::{Obstacle, Unreachable},
};
