//! The machine under the measurement: what it can do, and who used how much of it.
//!
//! The counters are Linux's (`/proc`); on other systems they stay at zero and figures of use are not shown.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::e2e::process::{TICKS_PER_SECOND, process_ticks};

/// How long each calibration runs.
const CALIBRATION: Duration = Duration::from_secs(1);

/// Prints what makes reports of different machines readable.
pub(super) fn print_calibration(directory: &Path) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{} cores, {}, data on {}", cores, processor(), file_system(directory));
    let (p50, p99) = sync_times(directory)?;
    println!("4 KiB append and fdatasync  p50 {p50} µs, p99 {p99} µs");
    let (p50, p99) = round_trip_times()?;
    println!("256 B there and back over loopback TCP  p50 {p50} µs, p99 {p99} µs");
    Ok(())
}

fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    name.unwrap_or("unknown processor").trim().to_owned()
}

/// The file system that `directory` is on, with its mount options.
fn file_system(directory: &Path) -> String {
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_path_buf());
    let text = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mounts = text.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        Some((words.next()?, words.next()?, words.next()?))
    });
    let best = mounts.filter(|(at, _, _)| directory.starts_with(at)).max_by_key(|(at, _, _)| at.len());
    best.map_or_else(
        || "an unknown file system".to_owned(),
        |(_, kind, options)| format!("{kind} ({options})"),
    )
}

fn sync_times(directory: &Path) -> Result<(u64, u64)> {
    let path = directory.join("calibration");
    let mut file = File::create(&path).with_context(|| path.display().to_string())?;
    let page = [0x5a_u8; 4096];
    let times = repeat(|| {
        file.write_all(&page)?;
        file.sync_data()
    })?;
    std::fs::remove_file(&path).with_context(|| path.display().to_string())?;
    Ok(times)
}

fn round_trip_times() -> Result<(u64, u64)> {
    let listener = TcpListener::bind("127.0.0.1:0").context("loopback")?;
    let address = listener.local_addr().context("loopback")?;
    let echo = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut buffer = [0_u8; 256];
        while stream.read_exact(&mut buffer).is_ok() {
            stream.write_all(&buffer)?;
        }
        Ok(())
    });
    let mut stream = TcpStream::connect(address).context("loopback")?;
    stream.set_nodelay(true).context("loopback")?;
    let mut buffer = [0_u8; 256];
    let times = repeat(|| {
        stream.write_all(&buffer)?;
        stream.read_exact(&mut buffer)
    })?;
    drop(stream);
    // The other end stops when the stream is closed; what it could not send is of no interest.
    let _ = echo.join();
    Ok(times)
}

/// Median and 99th percentile in microseconds.
fn repeat(mut act: impl FnMut() -> std::io::Result<()>) -> Result<(u64, u64)> {
    let mut times = Vec::new();
    let end = Instant::now() + CALIBRATION;
    while Instant::now() < end {
        let started = Instant::now();
        act().context("calibration")?;
        times.push(started.elapsed().as_micros() as u64);
    }
    times.sort_unstable();
    Ok((times[times.len() / 2], times[times.len() * 99 / 100]))
}

/// Processor time and memory at one moment.
#[derive(Clone, Debug)]
pub(super) struct Counters {
    at: Instant,
    /// Ticks of all processors that were not idle.
    busy: u64,
    /// Ticks of the nodes.
    nodes: u64,
    /// Ticks of this process and of the children it has waited for: the load.
    own: u64,
    resident_bytes_max: u64,
}

impl Counters {
    /// Reads the counters of the machine and of the processes `ids`.
    pub(super) fn read(ids: &[u32]) -> Result<Self> {
        let own = process_ticks("self");
        Ok(Self {
            at: Instant::now(),
            busy: busy_ticks().unwrap_or(0),
            nodes: ids.iter().map(|id| process_ticks(&id.to_string()).0).sum(),
            own: own.0 + own.1,
            resident_bytes_max: ids.iter().filter_map(|id| resident_bytes(*id)).max().unwrap_or(0),
        })
    }

    /// What was used between `before` and now.
    pub(super) fn since(&self, before: &Self) -> Used {
        Used {
            seconds: (self.at - before.at).as_secs_f64(),
            busy: self.busy.saturating_sub(before.busy),
            nodes: self.nodes.saturating_sub(before.nodes),
            own: self.own.saturating_sub(before.own),
            resident_bytes_max: self.resident_bytes_max,
        }
    }

    /// Bytes that the processes have sent to the disk so far.
    pub(super) fn written_bytes(ids: &[u32]) -> u64 {
        let written = |id: &u32| {
            let text = std::fs::read_to_string(format!("/proc/{id}/io")).ok()?;
            text.lines().find_map(|line| line.strip_prefix("write_bytes: ")?.parse::<u64>().ok())
        };
        ids.iter().filter_map(written).sum()
    }
}

/// What was used within a span of time.
#[derive(Clone, Debug)]
pub(super) struct Used {
    seconds: f64,
    busy: u64,
    nodes: u64,
    own: u64,
    pub(super) resident_bytes_max: u64,
}

impl Used {
    /// Processor time of the nodes.
    pub(super) fn node_seconds(&self) -> f64 {
        self.nodes as f64 / TICKS_PER_SECOND
    }

    pub(super) fn node_cores(&self) -> f64 {
        self.nodes as f64 / TICKS_PER_SECOND / self.seconds.max(0.001)
    }

    /// Of everything that is neither a node nor the load.
    pub(super) fn foreign_cores(&self) -> f64 {
        self.busy.saturating_sub(self.nodes + self.own) as f64 / TICKS_PER_SECOND / self.seconds.max(0.001)
    }
}

/// User, nice, system, interrupts and stolen time; not idle and not waiting for the disk.
fn busy_ticks() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    busy_ticks_in(text.lines().next()?)
}

fn busy_ticks_in(line: &str) -> Option<u64> {
    let ticks = line.split_whitespace().skip(1).map(str::parse::<u64>).collect::<Result<Vec<_>, _>>().ok()?;
    Some(ticks.iter().take(8).sum::<u64>() - ticks.get(3)? - ticks.get(4)?)
}

fn resident_bytes(id: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_the_fields_that_hold_them() {
        assert_eq!(busy_ticks_in("cpu  10 1 5 1000 50 2 3 4 0 0"), Some(25));
    }

    #[test]
    fn what_is_neither_node_nor_load_is_foreign() {
        let used = Used { seconds: 2.0, busy: 400, nodes: 200, own: 100, resident_bytes_max: 0 };
        assert!((used.node_cores() - 1.0).abs() < 1e-9);
        assert!((used.foreign_cores() - 0.5).abs() < 1e-9);
    }
}
