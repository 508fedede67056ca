//! Real traffic: TCP downloads and UDP echoes from client to server, over IPv4 and IPv6.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use flowprobe_tests::topology::Routed;

use crate::interrupt;

/// Where the server listens, TCP and UDP.
const PORT: u16 = 7000;
/// Octets of each download.
const DOWNLOADS: [u64; 3] = [10_000, 200_000, 5_000_000];
/// Datagrams of each exchange.
const EXCHANGES: [u32; 2] = [20, 500];
/// Octets of each datagram.
const DATAGRAM: usize = 600;
/// Nothing in a network of one machine takes longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a waiting server looks whether it is still needed.
const GLANCE: Duration = Duration::from_millis(20);

/// Sends it all and waits for every answer.
pub(super) fn run(network: &Routed) -> Result<()> {
    let servers = [Routed::SERVER_V4, Routed::SERVER_V6].map(str::parse::<IpAddr>);
    for server in servers {
        let address = SocketAddr::new(server?, PORT);
        let listener = network.server.run(|| TcpListener::bind(address))??;
        let echo = network.server.udp(address)?;
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let serving = [
                scope.spawn(|| serve_downloads(&listener, &done)),
                scope.spawn(|| serve_echoes(&echo, &done)),
            ];
            let asked = ask(network, address);
            done.store(true, Ordering::Relaxed);
            for thread in serving {
                thread.join().expect("a server never panics")?;
            }
            asked
        })?;
    }
    Ok(())
}

fn ask(network: &Routed, server: SocketAddr) -> Result<()> {
    for octets in DOWNLOADS {
        interrupt::check()?;
        let stream = network
            .client
            .run(|| TcpStream::connect_timeout(&server, PATIENCE))?;
        download(stream.context("connecting through the gateway")?, octets)?;
    }
    for datagrams in EXCHANGES {
        interrupt::check()?;
        let any: IpAddr = if server.is_ipv4() {
            [0; 4].into()
        } else {
            [0; 16].into()
        };
        let socket = network.client.udp(SocketAddr::new(any, 0))?;
        exchange(&socket, server, datagrams)?;
    }
    Ok(())
}

/// Asks for so many octets, and reads them.
fn download(mut stream: TcpStream, octets: u64) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&octets.to_be_bytes())?;
    let mut received = 0;
    let mut buffer = vec![0; 1 << 16];
    loop {
        interrupt::check()?;
        match stream.read(&mut buffer)? {
            0 => break,
            count => received += count as u64,
        }
    }
    ensure!(received == octets, "{received} octets of {octets}");
    Ok(())
}

fn serve_downloads(listener: &TcpListener, done: &AtomicBool) -> Result<()> {
    listener.set_nonblocking(true)?;
    while !done.load(Ordering::Relaxed) {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(GLANCE);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut request = [0; 8];
        stream.read_exact(&mut request)?;
        let mut left = u64::from_be_bytes(request);
        let block = vec![0x5a; 1 << 16];
        while left > 0 {
            let now = left.min(block.len() as u64);
            stream.write_all(&block[..now as usize])?;
            left -= now;
        }
    }
    Ok(())
}

/// Sends each datagram once the answer to the one before has come.
fn exchange(socket: &UdpSocket, server: SocketAddr, datagrams: u32) -> Result<()> {
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut buffer = [0; DATAGRAM];
    for _ in 0..datagrams {
        interrupt::check()?;
        socket.send_to(&[0xa5; DATAGRAM], server)?;
        let count = socket.recv(&mut buffer).context("waiting for an echo")?;
        ensure!(count == DATAGRAM, "an echo of {count} octets");
    }
    Ok(())
}

fn serve_echoes(socket: &UdpSocket, done: &AtomicBool) -> Result<()> {
    socket.set_read_timeout(Some(GLANCE))?;
    let mut buffer = [0; 2 * DATAGRAM];
    while !done.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((count, client)) => {
                socket.send_to(&buffer[..count], client)?;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
