//! The program as people and machines run it: its exit codes, what it says to mistakes, its HTTP listener,
//! and how it ends on a signal.

mod edge_harness;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use edge_harness::alone;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_consensus-server");

fn program(arguments: &[&str], directory: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).current_dir(directory).env_remove("CONSENSUS_LOG");
    command
}

fn run(arguments: &[&str], directory: &Path) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = program(arguments, directory).output().expect("runs");
    (status.code(), String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr))
}

fn write(directory: &Path, text: &str) -> PathBuf {
    let path = directory.join("node.toml");
    std::fs::write(&path, text).expect("writes");
    path
}

const FREE: &str = "[node]\nid = 1\ncluster = 'c'\n[listen]\nclient = '127.0.0.1:0'\npeer = '127.0.0.1:0'\n\
                    ops = '127.0.0.1:0'\n[security]\ninsecure = true\n";

/// A process that does not outlive its test.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().expect("starts"))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("signals");
    }

    fn wait(&mut self) -> ExitStatus {
        self.0.wait().expect("ends")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already if all went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running node whose log is read.
struct Running {
    process: Process,
    log: BufReader<std::process::ChildStderr>,
}

impl Running {
    /// Returns when the node serves.
    fn start(directory: &Path) -> Self {
        write(directory, FREE);
        let mut command = program(&["run", "-c", "node.toml", "--log-format", "json"], directory);
        let mut process = Process::start(command.stdout(Stdio::null()).stderr(Stdio::piped()));
        let mut log = BufReader::new(process.0.stderr.take().expect("piped"));
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).expect("readable") > 0, "ended before it served: {seen}");
            let event: serde_json::Value = serde_json::from_str(&line).expect("a line of JSON");
            if event["message"] == "serving" {
                return Self { process, log };
            }
            seen += &line;
        }
    }

    /// Waits for the end; the rest of the log.
    fn end(mut self) -> (ExitStatus, String) {
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).expect("readable");
        (self.process.wait(), rest)
    }
}

#[test]
fn wrong_usage_and_wrong_configuration_end_with_2() {
    let directory = TempDir::new().expect("a directory");
    let (code, said) = run(&["run"], directory.path());
    assert!(code == Some(2) && said.contains("--config"), "{code:?} {said}");
    let (code, said) = run(&["run", "-c", "node.toml", "--dev"], directory.path());
    assert!(code == Some(2) && said.contains("cannot be used with"), "{code:?} {said}");
    let (code, said) = run(&["config", "check", "nowhere.toml"], directory.path());
    assert!(code == Some(2) && said.starts_with("nowhere.toml: cannot be read"), "{code:?} {said}");
    write(
        directory.path(),
        "[node]\nid = 1\ncluster = 'c'\n[raft]\ntick_ms = 0\n[security]\ninsecure = true\n",
    );
    for command in [&["config", "check", "node.toml"][..], &["run", "-c", "node.toml"]] {
        let (code, said) = run(command, directory.path());
        let expected = "node.toml:5: raft.tick_ms is 0, must be between 5 and 10000\n";
        assert_eq!((code, said.as_str()), (Some(2), expected));
    }
    write(directory.path(), FREE);
    let (code, said) = run(&["config", "check", "node.toml"], directory.path());
    assert_eq!(code, Some(0));
    let (fine, memory) = said.split_once('\n').expect("two lines");
    assert_eq!(fine, "node.toml: fine: node 1 of cluster c, 1 member(s)");
    assert!(
        memory.starts_with("memory: at most ") && memory.contains(" MiB: program 96, store "),
        "{memory}"
    );
    let (code, said) = run(&["run", "-c", "node.toml", "--log", "inof"], directory.path());
    assert!(code == Some(2) && said.contains("\"inof\" is no level"), "{code:?} {said}");
}

#[test]
fn a_port_in_use_ends_with_1_and_names_key_and_address() {
    for key in ["client", "peer", "ops"] {
        let directory = TempDir::new().expect("a directory");
        let taken = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = taken.local_addr().expect("bound");
        write(
            directory.path(),
            &FREE.replace(&format!("{key} = '127.0.0.1:0'"), &format!("{key} = '{address}'")),
        );
        let (code, said) = run(&["run", "-c", "node.toml"], directory.path());
        assert!(
            code == Some(1) && said.contains(&format!("listen.{key} {address} is in use")),
            "{code:?} {said}"
        );
        assert!(
            !directory.path().join("data").exists(),
            "nothing was touched before the ports were found free"
        );
    }
}

#[test]
fn a_directory_in_use_ends_with_1_and_names_the_owner() {
    let directory = TempDir::new().expect("a directory");
    let running = Running::start(directory.path());
    let owner = running.process.0.id().to_string();
    let (code, said) = run(&["run", "-c", "node.toml"], directory.path());
    assert!(code == Some(1) && said.contains("is in use by") && said.contains(&owner), "{code:?} {said}");
    running.process.signal(Signal::TERM);
    assert!(running.end().0.success());
}

#[test]
fn a_node_ends_with_0_within_five_seconds_of_a_signal() {
    for signal in [Signal::TERM, Signal::INT] {
        let directory = TempDir::new().expect("a directory");
        let running = Running::start(directory.path());
        let asked = Instant::now();
        running.process.signal(signal);
        let (status, log) = running.end();
        assert!(status.success(), "{status} {log}");
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        assert!(log.contains("\"stopped\""), "{log}");
    }
}

/// A request without a client library: status line and body.
fn http(address: SocketAddr, request: &str) -> (String, String) {
    let mut connection = TcpStream::connect(address).expect("listens");
    write!(connection, "{request}").expect("writes");
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("readable");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

fn get(address: SocketAddr, path: &str) -> (String, String) {
    http(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_answer_over_http() {
    let cluster = alone("").await;
    cluster.ready().await;
    let ops = cluster.servers[0].config().listen.ops;
    let answers = tokio::task::spawn_blocking(move || {
        assert_eq!(get(ops, "/livez"), ("HTTP/1.1 200 OK".to_owned(), "ok\n".to_owned()));
        let (code, body) = get(ops, "/readyz?verbose");
        assert!(code.ends_with("200 OK") && body.contains("[+] leader: node 1 leads"), "{code} {body}");
        let (_, body) = get(ops, "/status");
        let status: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((&status["node_id"], &status["chains"][0]["role"]), (&1.into(), &"leader".into()));
        let (_, body) = get(ops, "/metrics");
        assert!(body.contains("consensus_raft_is_leader{chain=\"main\"} 1"), "{body}");
        let (code, body) =
            http(ops, "PUT /log HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\ninof");
        assert!(code.contains("400") && body.contains("no level"), "{code} {body}");
        assert!(get(ops, "/nowhere").0.contains("404"));
    });
    answers.await.expect("as expected");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_without_configuration_says_how_to_use_it() {
    let directory = TempDir::new().expect("a directory");
    let mut command = program(&["run", "--dev", "here", "--log", "warn"], directory.path());
    let mut process = Process::start(command.stdout(Stdio::piped()));
    let mut lines = BufReader::new(process.0.stdout.take().expect("piped")).lines();
    let line =
        lines.find_map(|line| line.ok().filter(|line| line.contains("consensus-cli submit"))).expect("said");
    let address =
        line.split_whitespace().skip_while(|word| *word != "--to").nth(1).expect("an address").to_owned();
    let mut client =
        consensus_proto::ordering::ordering_client::OrderingClient::connect(format!("http://{address}"))
            .await
            .expect("listens");
    let request = consensus_proto::ordering::SubmitRequest { payload: "hello".into(), ..Default::default() };
    loop {
        match client.submit(request.clone()).await {
            Ok(_) => break,
            // Not elected yet.
            Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable, "{status}"),
        }
    }
    assert!(directory.path().join("here").is_dir());
    process.signal(Signal::TERM);
    assert!(process.wait().success());
}
