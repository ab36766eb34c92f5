//! A real S3 server (s3s-fs) in the test's own process, on a loopback port of its own.
//!
//! It checks signatures and CRC64NVME, keeps buckets as folders below one directory, and is stopped when dropped.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

/// The access key every server of the tests knows.
const ACCESS_KEY: &str = "AKIAGFASTTEST";
/// Its secret: no output of gfast may hold it.
const SECRET_KEY: &str = "canary-secret-7f3a9c51d2";

/// A running server; dropping it ends it.
pub struct S3sFs {
    /// Where it listens.
    address: SocketAddr,
    /// Whether it speaks TLS.
    is_tls: bool,
    /// Where its buckets are.
    dir: PathBuf,
    /// Ends the server when sent or dropped.
    stop: Option<oneshot::Sender<()>>,
    /// The thread it runs on.
    thread: Option<JoinHandle<()>>,
}

impl S3sFs {
    /// Starts a server that keeps its buckets below `dir`, which must exist.
    pub fn start(dir: &Path) -> S3sFs {
        S3sFs::start_on(dir, None)
    }

    /// The same behind TLS, with the certificate and the key of two PEM files.
    pub fn start_tls(dir: &Path, certificate: &Path, key: &Path) -> S3sFs {
        let chain = CertificateDer::pem_file_iter(certificate).expect("a PEM file").collect::<Result<Vec<_>, _>>();
        let key = PrivateKeyDer::from_pem_file(key).expect("a key");
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(chain.expect("certificates"), key).expect("a pair that fits");
        S3sFs::start_on(dir, Some(TlsAcceptor::from(Arc::new(config))))
    }

    fn start_on(dir: &Path, tls: Option<TlsAcceptor>) -> S3sFs {
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(dir).expect("the server's directory exists"));
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = builder.build();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        listener.set_nonblocking(true).expect("a socket that does not block");
        let address = listener.local_addr().expect("the port's number");
        let is_tls = tls.is_some();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || serve(listener, service, tls, stopped));
        S3sFs { address, is_tls, dir: dir.to_owned(), stop: Some(stop), thread: Some(thread) }
    }

    /// For `--endpoint-url`.
    pub fn endpoint(&self) -> String {
        format!("{}://{}", if self.is_tls { "https" } else { "http" }, self.address)
    }

    /// For `AWS_ACCESS_KEY_ID`.
    pub fn access_key(&self) -> &str {
        ACCESS_KEY
    }

    /// For `AWS_SECRET_ACCESS_KEY`.
    pub fn secret_key(&self) -> &str {
        SECRET_KEY
    }

    /// Makes an empty bucket and returns the folder that holds its objects.
    pub fn bucket(&self, name: &str) -> PathBuf {
        let dir = self.dir.join(name);
        std::fs::create_dir(&dir).expect("a bucket that is new");
        dir
    }
}

impl Drop for S3sFs {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    listener: std::net::TcpListener,
    service: S3Service,
    tls: Option<TlsAcceptor>,
    mut stopped: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async move {
        let listener = TcpListener::from_std(listener).expect("a listener");
        loop {
            let accepted = tokio::select! {
                _ = &mut stopped => break,
                accepted = listener.accept() => accepted,
            };
            let Ok((socket, _)) = accepted else { continue };
            // As servers do: a body held back until its head is acknowledged costs every small answer some 30 ms.
            let _ = socket.set_nodelay(true);
            let (service, tls) = (service.clone(), tls.clone());
            tokio::spawn(async move {
                let http = Builder::new(TokioExecutor::new());
                // What the client makes of the certificate is its affair.
                match tls {
                    None => drop(http.serve_connection(TokioIo::new(socket), service).await),
                    Some(tls) => {
                        let Ok(socket) = tls.accept(socket).await else { return };
                        drop(http.serve_connection(TokioIo::new(socket), service).await);
                    }
                }
            });
        }
    });
}
