//! Connections passed on between host and container.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};

use berth_containers::spec::{Address, Proxy, Side, SocketOwner};
use berth_supervisor::protocol::Request;
use rustix::thread::LinkNameSpaceType;

use crate::common::*;

const OWNER: SocketOwner = SocketOwner { uid: 0, gid: 0, mode: 0o600 };

fn proxy(bind: Side, listen: Address, connect: Address) -> Proxy {
    Proxy { bind, listen: vec![listen], connect: vec![connect], proxy_protocol: false, socket: OWNER, uid: 0, gid: 0 }
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A port of the host that nobody listens on.
fn free_port() -> u16 {
    TcpListener::bind(local(0)).unwrap().local_addr().unwrap().port()
}

/// Makes something in the container's network.
fn inside<T: Send + 'static>(container: &Running, make: impl FnOnce() -> T + Send + 'static) -> T {
    let (_, mut fds) = container.ask(&Request::Network);
    let network = fds.remove(0);
    let enter = move || {
        rustix::thread::move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        make()
    };
    std::thread::spawn(enter).join().unwrap()
}

/// Lets the container answer on its port 80 with what it got.
fn serve_echo(container: &Running) {
    let listener = inside(container, || TcpListener::bind(local(80)).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::io::copy(&mut stream.try_clone().unwrap(), &mut stream).unwrap();
        }
    });
}

fn said(mut stream: impl Read + Write) -> String {
    stream.write_all(b"hello").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn the_host_reaches_the_container() {
    let place = Place::new();
    let (port, other) = (free_port(), free_port());
    let path = place.path().join("socket");
    let mut spec = place.spec();
    let inside = Address::Tcp(local(80));
    spec.proxies.insert("tcp".into(), proxy(Side::Host, Address::Tcp(local(port)), inside.clone()));
    let unix = Address::Unix(path.to_str().unwrap().to_owned());
    let owner = SocketOwner { uid: 1000, gid: 1001, mode: 0o640 };
    spec.proxies.insert("unix".into(), Proxy { socket: owner, ..proxy(Side::Host, unix, inside.clone()) });
    let container = Running::start_spec(&place, spec.clone());
    serve_echo(&container);
    assert_eq!(said(TcpStream::connect(local(port)).unwrap()), "hello");
    assert_eq!(said(UnixStream::connect(&path).unwrap()), "hello");
    let file = fs::metadata(&path).unwrap();
    assert_eq!((file.uid(), file.gid(), file.permissions().mode() & 0o777), (1000, 1001, 0o640));

    // A port that is taken: nothing changes, not even what could.
    let keep_listener = TcpListener::bind(local(0)).unwrap();
    let keep = keep_listener.local_addr().unwrap();
    let mut wrong = spec.clone();
    wrong.proxies.insert("taken".into(), proxy(Side::Host, Address::Tcp(keep), inside.clone()));
    wrong.proxies.remove("unix");
    let message = container.change(&wrong).unwrap_err();
    assert!(message.contains("\"taken\"") && message.contains(&keep.to_string()), "{message}");
    assert_eq!(said(UnixStream::connect(&path).unwrap()), "hello");

    // The same port and one more; the socket goes.
    let ports = vec![Address::Tcp(local(port)), Address::Tcp(local(other))];
    spec.proxies.insert("tcp".into(), Proxy { listen: ports, ..proxy(Side::Host, inside.clone(), inside) });
    spec.proxies.remove("unix");
    container.change(&spec).unwrap();
    for port in [port, other] {
        assert_eq!(said(TcpStream::connect(local(port)).unwrap()), "hello");
    }
    assert!(!path.exists());
    spec.proxies.clear();
    container.change(&spec).unwrap();
    assert!(TcpStream::connect(local(port)).is_err());
    container.kill();
}

#[test]
fn the_container_reaches_the_host() {
    let place = Place::new();
    let path = place.path().join("service");
    let service = UnixListener::bind(&path).unwrap();
    let mut spec = place.spec();
    let host = Address::Unix(path.to_str().unwrap().to_owned());
    spec.proxies.insert("p".into(), proxy(Side::Instance, Address::Tcp(local(7000)), host));
    let container = Running::start_spec(&place, spec);
    let answer = std::thread::spawn(move || {
        let (mut client, _) = service.accept().unwrap();
        let mut word = [0; 5];
        client.read_exact(&mut word).unwrap();
        client.write_all(b"from the host: ").unwrap();
        client.write_all(&word).unwrap();
    });
    assert_eq!(container.text("echo -n hello | nc 127.0.0.1 7000"), "from the host: hello");
    answer.join().unwrap();
    // It runs on the host, where nothing inside sees it.
    assert_eq!(container.text("ls -d /proc/[0-9]* | wc -l; true").lines().count(), 1);
    container.kill();
}

#[test]
fn datagrams_and_greetings_are_passed_on() {
    let place = Place::new();
    let udp = free_port();
    let service = TcpListener::bind(local(0)).unwrap();
    let mut spec = place.spec();
    spec.proxies.insert("udp".into(), proxy(Side::Host, Address::Udp(local(udp)), Address::Udp(local(53))));
    let greeted = proxy(Side::Instance, Address::Tcp(local(7001)), Address::Tcp(service.local_addr().unwrap()));
    spec.proxies.insert("greeted".into(), Proxy { proxy_protocol: true, ..greeted });
    let container = Running::start_spec(&place, spec);
    let server = inside(&container, || UdpSocket::bind(local(53)).unwrap());
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        let (length, client) = server.recv_from(&mut buffer).unwrap();
        server.send_to(&buffer[..length], client).unwrap();
    });
    let socket = UdpSocket::bind(local(0)).unwrap();
    socket.connect(local(udp)).unwrap();
    socket.send(b"hello").unwrap();
    let mut buffer = [0; 16];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"hello");

    let heard = std::thread::spawn(move || {
        let mut text = String::new();
        service.accept().unwrap().0.read_to_string(&mut text).unwrap();
        text
    });
    container.text("echo -n hello | nc 127.0.0.1 7001; true");
    let heard = heard.join().unwrap();
    assert!(heard.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 ") && heard.ends_with(" 7001\r\nhello"), "{heard:?}");
    container.kill();
}

#[test]
fn kernel_settings_are_those_of_the_container() {
    let place = Place::new();
    let mut spec = place.spec();
    spec.sysctls.insert("net.ipv4.ip_forward".into(), "1".into());
    let before = fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    let container = Running::start_spec(&place, spec.clone());
    assert_eq!(container.text("cat /proc/sys/net/ipv4/ip_forward"), "1");
    container.kill();
    assert_eq!(fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(), before);
    // One of the host's.
    spec.sysctls.insert("kernel.panic".into(), "1".into());
    let message = Starting::new(&place, spec).created().unwrap_err();
    assert!(message.contains("linux.sysctl.kernel.panic"), "{message}");
}
