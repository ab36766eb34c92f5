//! What is mounted from a server, as the server calls it.
//!
//! A client gives mounts of one server a device in common or one each as it sees fit: read-only beside read-write,
//! another option, another address and another version make another. NFS calls the root of each of its mounts "/",
//! whatever directory that is, and tells it in the name of what is mounted (`nfs_show_path`, `nfs_show_devname`). The
//! root of SMB lies below what is mounted; before Linux 5.11 it is a path in the share, of whose mounts all that have
//! a device in common have the first one's name. Such a path counts where it fits the name.
//!
//! ```text
//! 0:26 / /mnt/q - nfs nas:/vol/p/q rw,vers=3,addr=10.0.0.1     nas or 10.0.0.1, /vol/p/q: of a bind mount, too
//! 0:31 / /mnt/p - cifs //nas/data/p rw,addr=10.0.0.1           nas or 10.0.0.1, /data/p
//! 0:31 /q /mnt/q - cifs //nas/data/p rw,addr=10.0.0.1          the same server, /data/p/q
//! 0:32 /p /mnt/p - cifs //nas/data/p rw,addr=10.0.0.1          the same server, /data/p
//! 0:33 /x /mnt/far - fuse.sshfs root@far:/home rw              far, /home/x
//! ```

use super::mounts::is_at_or_below;

/// Where a directory lies on the server that it is mounted from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Export {
    /// The server's name and its address, each with its port; empty where it is not told.
    servers: [Vec<u8>; 2],
    /// Path on the server.
    pub path: Vec<u8>,
}

impl Export {
    /// Of a line's type, root, name of what is mounted and options of the file system.
    pub fn of(name: &[u8], root: &[u8], mounted: &[u8], options: &[u8]) -> Option<Export> {
        let option = |key: &[u8]| options.split(|&b| b == b',').find_map(|option| option.strip_prefix(key));
        let address = option(b"addr=").unwrap_or_default();
        match name {
            b"nfs" | b"nfs4" => {
                let (host, path) = split_at_colon(mounted)?;
                let port = option(b"port=").filter(|port| !matches!(*port, b"0" | b"2049"));
                Some(Export::named([host, address], port.unwrap_or_default(), cleaned(path)))
            }
            b"cifs" | b"smb3" => {
                let (host, path) = split_at(mounted.strip_prefix(b"//")?, b'/')?;
                let (share, sub) = split_at(&path[1..], b'/').unwrap_or((&path[1..], b""));
                let is_in_share = !sub.is_empty() && is_at_or_below(root, &cleaned(sub));
                let sub = if is_in_share { b"" } else { sub };
                let path = [b"/", &share.to_ascii_lowercase()[..], b"/", sub, root].concat();
                Some(Export::named([host, address], b"", cleaned(&path))).filter(|_| !is_own(host) && !is_own(address))
            }
            b"fuse.sshfs" => {
                let (login, path) = split_at_colon(mounted)?;
                let host = login.rsplit(|&b| b == b'@').next().unwrap_or(login);
                Some(Export::named([host, b""], b"", cleaned(&[path, root].concat()))).filter(|_| !is_own(host))
            }
            _ => None,
        }
    }

    fn named(servers: [&[u8]; 2], port: &[u8], path: Vec<u8>) -> Export {
        let with_port = |name: &[u8]| match name {
            b"" => Vec::new(),
            name => [&bare(name).to_ascii_lowercase()[..], b" ", port].concat(),
        };
        Export { servers: servers.map(with_port), path }
    }

    /// Another path on the same server.
    pub fn at(&self, path: Vec<u8>) -> Export {
        Export { servers: self.servers.clone(), path }
    }

    /// Whether both are of one server, as far as its names tell.
    pub fn shares_server_with(&self, other: &Export) -> bool {
        self.servers.iter().zip(&other.servers).any(|(ours, theirs)| !ours.is_empty() && ours == theirs)
    }
}

/// Whether a server is called by this machine's own name: what listens there may be a tunnel to any other. NFS tells
/// its port, by which tunnels differ.
fn is_own(server: &[u8]) -> bool {
    let server = bare(server);
    server.starts_with(b"127.") || server == b"::1" || server.to_ascii_lowercase().starts_with(b"localhost")
}

/// An address of IPv6 without its brackets.
fn bare(server: &[u8]) -> &[u8] {
    server.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]")).unwrap_or(server)
}

/// `host:/path`; what is mounted by a path that is relative to somebody's home is not told from others.
fn split_at_colon(mounted: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = mounted.windows(2).position(|pair| pair == b":/")?;
    Some((&mounted[..at], &mounted[at + 1..]))
}

/// What lies before a byte, and the rest with it.
fn split_at(text: &[u8], byte: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&b| b == byte)?;
    Some(text.split_at(at))
}

/// A path without empty components and dots, which users write and servers pass over.
fn cleaned(path: &[u8]) -> Vec<u8> {
    let names = path.split(|&b| b == b'/').filter(|name| !matches!(*name, b"" | b"."));
    let cleaned: Vec<u8> = names.flat_map(|name| [b"/", name].concat()).collect();
    if cleaned.is_empty() { b"/".to_vec() } else { cleaned }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, root: &str, mounted: &str, options: &str) -> Option<Export> {
        Export::of(name.as_bytes(), root.as_bytes(), mounted.as_bytes(), options.as_bytes())
    }

    #[test]
    fn a_path_on_a_server_is_made_of_what_each_kind_of_mount_tells() {
        let path = |name, root, mounted| of(name, root, mounted, "rw").map(|it| String::from_utf8(it.path).unwrap());
        for (name, root, mounted, expected) in [
            ("nfs", "/", "nas:/vol/p/q", Some("/vol/p/q")),
            ("nfs4", "/", "[fe80::1]://vol/./p/", Some("/vol/p")),
            ("nfs4", "/", "nas:/", Some("/")),
            ("nfs", "/", "/dev/root", None),
            ("cifs", "/", "//nas/Data", Some("/data")),
            ("cifs", "/", "//nas/Data/Sub/", Some("/data/Sub")),
            ("cifs", "/q", "//nas/data/p", Some("/data/p/q")),
            ("smb3", "/p", "//nas/data/p", Some("/data/p")),
            ("smb3", "/pq", "//nas/data/p", Some("/data/p/pq")),
            ("cifs", "/", "//nas", None),
            ("cifs", "/", "//localhost/data", None),
            ("fuse.sshfs", "/x", "root@far:/home/", Some("/home/x")),
            ("fuse.sshfs", "/", "far:", None),
            ("fuse.sshfs", "/", "127.0.0.1:/home", None),
            ("fuse.mergerfs", "/", "a:/b", None),
            ("ext4", "/", "/dev/sda", None),
        ] {
            assert_eq!(path(name, root, mounted).as_deref(), expected, "{name} {root} {mounted}");
        }
    }

    #[test]
    fn a_server_is_known_by_its_name_or_its_address_and_its_port() {
        let is_one = |(ours, our_options), (theirs, their_options)| {
            let of = |mounted, options| of("nfs4", "/", mounted, options).unwrap();
            of(ours, our_options).shares_server_with(&of(theirs, their_options))
        };
        assert!(is_one(("nas:/a", "rw"), ("NAS:/b", "rw,addr=10.0.0.1")));
        assert!(is_one(("nas:/a", "rw,addr=10.0.0.1"), ("nas.example:/a", "ro,port=2049,addr=10.0.0.1")));
        assert!(is_one(("nas:/a", "rw,addr=10.0.0.1"), ("nas:/a", "rw,addr=10.0.0.2")), "several addresses");
        assert!(!is_one(("nas:/a", "rw"), ("other:/a", "rw")), "no address is none in common");
        assert!(!is_one(("nas:/a", "rw,addr=10.0.0.1"), ("nasty:/a", "rw,addr=10.0.0.11")));
        let tunnel = |port| ("127.0.0.1:/", format!("rw,port={port},clientaddr=127.0.0.1,addr=127.0.0.1"));
        let ((one, one_port), (two, two_port)) = (tunnel(20049), tunnel(20050));
        assert!(!is_one((one, &one_port), (two, &two_port)) && is_one((one, &one_port), (two, &one_port)));
    }
}
