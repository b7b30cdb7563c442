//! Files of a store on a server.

use object_store::memory::InMemory;

use super::*;
use crate::error::ErrorKind;

#[test]
fn files_are_read_by_range() {
    let store = Arc::new(InMemory::new());
    let put = |bytes: &'static [u8]| {
        wait::runtime().unwrap().block_on(store.put(&ObjectPath::from("root/a"), bytes.into())).unwrap();
    };
    put(b"abcdef");
    let remote = Remote::of(Arc::clone(&store) as Arc<dyn ObjectStore>, "mem://root");
    assert!(remote.file("none").unwrap().is_none());
    let file = remote.file("a").unwrap().unwrap();
    assert!(file.len() == 6 && !file.random_access());
    let mut into = [0; 3];
    file.read_at(2, &mut into).unwrap();
    assert_eq!(&into, b"cde");
    file.read_at(6, &mut []).unwrap();
    assert_eq!(file.read_at(4, &mut into).unwrap_err().kind(), ErrorKind::Corrupt);

    put(b"abcd");
    for offset in [1, 3] {
        let error = file.read_at(offset, &mut into).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().starts_with("path 'mem://root/a': object was replaced"), "{error}");
    }
    wait::runtime().unwrap().block_on(store.delete(&ObjectPath::from("root/a"))).unwrap();
    assert_eq!(file.read_at(0, &mut into).unwrap_err().kind(), ErrorKind::NotFound);
}

/// A store in memory of these objects.
fn remote(objects: &[(&str, &'static [u8])]) -> Remote {
    let store = InMemory::new();
    for &(path, bytes) in objects {
        wait::runtime().unwrap().block_on(store.put(&ObjectPath::from(path), bytes.into())).unwrap();
    }
    Remote::of(Arc::new(store), "mem://root")
}

#[test]
fn objects_are_listed_and_read_below_their_root() {
    let remote = remote(&[("root/a", b"abcdef"), ("root/y/b", b"gh"), ("root/x/z/c", b"i"), ("other/d", b"j")]);
    assert_eq!(remote.list_folders("").unwrap(), ["x", "y"]);
    assert_eq!(remote.list_folders("x").unwrap(), ["z"]);
    assert_eq!([remote.total_size("").unwrap(), remote.total_size("x").unwrap()], [9, 1]);
    assert_eq!([remote.size("a").unwrap(), remote.size("d").unwrap()], [Some(6), None]);
    assert_eq!(remote.get("y/b").unwrap().unwrap(), "gh");
    assert!(remote.get("none").unwrap().is_none() && remote.local_root().is_none());
    let parts = remote.get_ranges("a", &[4..6, 0..1]).unwrap().unwrap();
    assert_eq!(parts, ["ef", "a"]);
    assert!(remote.get_ranges("none", std::slice::from_ref(&(0..1))).unwrap().is_none());
    let error = remote.get_ranges("a", std::slice::from_ref(&(4..9))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().starts_with("path 'mem://root/a': object is truncated"), "{error}");
}

#[test]
fn a_forked_process_is_told_to_open_again() {
    let mut remote = remote(&[("root/a", b"abc")]);
    remote.pid = 0;
    for error in [remote.get("a").unwrap_err(), remote.size("a").unwrap_err(), remote.file("a").err().unwrap()] {
        assert_eq!(error.kind(), ErrorKind::Value);
        assert!(error.to_string().contains("Open it again in this process"), "{error}");
    }
}

/// Answers requests for `/store/a` over plain HTTP, and has nothing else.
fn serve(bytes: &'static [u8]) -> String {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let uri = format!("http://{}/store", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(std::result::Result::ok) {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(std::result::Result::ok);
            let request = lines.next().unwrap_or_default();
            let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let range =
                headers.iter().find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
            let (status, body, extra) = match range {
                _ if !request.starts_with("GET ") && !request.starts_with("HEAD ") => {
                    ("405 Method Not Allowed", &b""[..], String::new())
                }
                _ if !request.contains(" /store/a ") => ("404 Not Found", &b""[..], String::new()),
                Some(range) => {
                    let (start, end) = range.split_once('-').unwrap();
                    let (start, end) = (start.parse::<usize>().unwrap(), end.parse::<usize>().unwrap());
                    let end = end.min(bytes.len() - 1);
                    let extra = format!("Content-Range: bytes {start}-{end}/{}\r\n", bytes.len());
                    ("206 Partial Content", &bytes[start..=end], extra)
                }
                None => ("200 OK", bytes, String::new()),
            };
            let mut stream = stream;
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{extra}Last-Modified: Tue, 01 Oct 2024 00:00:00 GMT\r\nConnection: close\r\n\r\n"
            );
            let _ = stream.write_all(head.as_bytes());
            if !request.starts_with("HEAD") {
                let _ = stream.write_all(body);
            }
        }
    });
    uri
}

#[test]
fn a_web_server_is_read_by_range() {
    let uri = serve(b"0123456789");
    let remote = Remote::new(&format!("{uri}/"), &Vec::new()).unwrap();
    assert_eq!(remote.uri(), uri);
    assert_eq!(remote.get("a").unwrap().unwrap(), "0123456789");
    assert!(remote.get("b").unwrap().is_none() && remote.size("b").unwrap().is_none());
    let file = remote.file("a").unwrap().unwrap();
    let mut into = [0; 4];
    file.read_at(3, &mut into).unwrap();
    assert_eq!((file.len(), &into), (10, b"3456"));
    assert_eq!(remote.get_ranges("a", std::slice::from_ref(&(8..10))).unwrap().unwrap(), ["89"]);
    let error = remote.list_folders("").unwrap_err();
    assert!(error.to_string().contains(&uri) && error.to_string().contains("Check the network"), "{error}");
}

#[test]
fn urls_that_cannot_be_opened_say_which_can() {
    for uri in ["ftp://host/a", "s3://", "nothing://x"] {
        let error = Remote::new(uri, &Vec::new()).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Value);
        assert!(error.to_string().contains("Use a path, file://, s3://"), "{error}");
    }
}
