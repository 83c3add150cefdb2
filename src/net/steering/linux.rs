//! Linux: a classic BPF program chooses the socket. That needs no privileges.

use std::{io, os::fd::AsRawFd};

use nix::libc;
use socket2::SockRef;

use crate::net::{
    task::Runtime,
    udp_socket::{BufferSizes, UdpSocket},
};

/// Binds the other sockets of a group of `count` sockets to the address of the first one.
pub(super) fn join(
    runtime: &Runtime,
    first: &UdpSocket,
    buffers: BufferSizes,
    count: usize,
) -> io::Result<Vec<UdpSocket>> {
    let divisor = u32::try_from(count).map_err(io::Error::other)?;
    let socket = SockRef::from(first.io());
    socket.set_reuse_port(true)?;
    let others = (1..count)
        .map(|_| UdpSocket::bind_shared(runtime, first.local_addr(), buffers))
        .collect::<io::Result<Vec<_>>>()?;
    attach(&socket, &mut program(divisor))?;
    Ok(others)
}

/// A program that returns the first byte of the destination connection ID, modulo `divisor`.
///
/// The first byte of the datagram tells where the ID begins (RFC 8999 §5). A datagram that is too
/// short goes to socket 0.
fn program(divisor: u32) -> [libc::sock_filter; 7] {
    const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    const LONG_HEADER: u32 = 0x80;
    const LONG_HEADER_ID: u32 = 6;
    const SHORT_HEADER_ID: u32 = 1;
    [
        instruction(LOAD_BYTE, 0),
        libc::sock_filter {
            // Jumps to the load for long headers, or continues with that for short headers.
            jt: 2,
            jf: 0,
            ..instruction(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, LONG_HEADER)
        },
        instruction(LOAD_BYTE, SHORT_HEADER_ID),
        instruction(libc::BPF_JMP | libc::BPF_JA, 1),
        instruction(LOAD_BYTE, LONG_HEADER_ID),
        instruction(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, divisor),
        instruction(libc::BPF_RET | libc::BPF_A, 0),
    ]
}

fn instruction(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        // Opcodes fit into one byte.
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

/// Makes the kernel run `program` for each datagram to the group of `socket`.
#[expect(
    unsafe_code,
    reason = "none of the crates that wrap socket options knows this one"
)]
fn attach(socket: &SockRef<'_>, program: &mut [libc::sock_filter; 7]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the option takes a `sock_fprog` of this size, which points to as many instructions as
    // its length states. The kernel copies and checks them, and keeps no pointer.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
