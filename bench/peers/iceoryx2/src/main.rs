//! The two ends of an iceoryx2 benchmark, which the Go program of bench/peers starts:
//!
//!     tandem-bench-iceoryx2 pong DIRECTORY
//!     tandem-bench-iceoryx2 ping DIRECTORY
//!
//! Each reads commands from stdin and answers each with one line of JSON on stdout.
//!
//!     KIND BYTES                    to pong: answer ping until that says stop
//!     KIND BYTES NANOSECONDS PACE   to ping: measure for so long, and sleep PACE nanoseconds
//!                                   before each operation
//!     KIND BYTES                    to ping: tell pong to stop
//!
//! pong answers when it is ready, and again when it was told to stop. Kinds are in ends.rs.
//! Both end with their stdin. What iceoryx2 keeps in the file system is in DIRECTORY, and
//! its shared memory has names that begin with the last part of that.

mod ends;

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use iceoryx2::prelude::*;

use ends::{End, Tally};

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// CLOSED says that stdin has ended, for loops that would go on for ever.
pub static CLOSED: AtomicBool = AtomicBool::new(false);

const LONGEST: u64 = 60_000_000_000; // nanoseconds, as the Go program has it
const CLOCK_EVERY: u64 = 64; // messages one way between two looks at the clock

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let [_, role, directory] = args.as_slice() else {
        return Err("usage: tandem-bench-iceoryx2 ping|pong DIRECTORY".into());
    };
    set_log_level(LogLevel::Error);
    let mut config = Config::default();
    config
        .global
        .set_root_path(&Path::new(directory.as_bytes())?);
    let name = directory.rsplit('/').next().unwrap_or_default();
    config.global.prefix = FileName::new(name.as_bytes())?;
    let node = NodeBuilder::new()
        .config(&config)
        .create::<ipc::Service>()?;

    let commands = commands();
    let mut ends: HashMap<(String, usize), End> = HashMap::new();
    while let Ok(line) = commands.recv() {
        let answer = match role.as_str() {
            "ping" => ping(&node, &mut ends, &line),
            _ => pong(&node, &mut ends, &line),
        };
        if let Err(e) = answer {
            say(&format!(r#"{{"error":{:?}}}"#, e.to_string()))?;
        }
    }
    Ok(())
}

/// commands reads stdin beside the work. After its end the process has two seconds to tidy
/// up.
fn commands() -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin()
            .lock()
            .lines()
            .map_while(std::result::Result::ok)
        {
            if send.send(line).is_err() {
                break;
            }
        }
        CLOSED.store(true, Ordering::Relaxed);
        drop(send);
        std::thread::sleep(Duration::from_secs(2));
        std::process::exit(1);
    });
    receive
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// end returns what was made for a kind and a size before, or makes it.
fn end<'a>(
    node: &Node<ipc::Service>,
    ends: &'a mut HashMap<(String, usize), End>,
    kind: &str,
    bytes: usize,
    pinging: bool,
) -> Result<&'a mut End> {
    let key = (kind.to_string(), bytes);
    if !ends.contains_key(&key) {
        ends.insert(key.clone(), End::new(node, kind, bytes, pinging)?);
    }
    Ok(ends.get_mut(&key).expect("it was just made"))
}

fn pong(
    node: &Node<ipc::Service>,
    ends: &mut HashMap<(String, usize), End>,
    line: &str,
) -> Result<()> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [kind, bytes] = words.as_slice() else {
        return Err(format!("command {line:?}").into());
    };
    let end = end(node, ends, kind, bytes.parse()?, false)?;
    say(r#"{"ready":true}"#)?;
    end.serve()?;
    say(r#"{"served":true}"#)
}

fn ping(
    node: &Node<ipc::Service>,
    ends: &mut HashMap<(String, usize), End>,
    line: &str,
) -> Result<()> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [kind, bytes, nanos, pace] = match words.as_slice() {
        [kind, bytes] => {
            end(node, ends, kind, bytes.parse()?, true)?.stop()?;
            return say(r#"{"stopped":true}"#);
        }
        &[kind, bytes, nanos, pace] => [kind, bytes, nanos, pace],
        _ => return Err(format!("command {line:?}").into()),
    };
    let (bytes, pace) = (bytes.parse()?, Duration::from_nanos(pace.parse()?));
    let d = Duration::from_nanos(nanos.parse()?);
    let end = end(node, ends, kind, bytes, true)?;
    let m = match kind {
        "oneway" => one_way(end, d)?,
        _ => trips(end, d, pace)?,
    };
    let h = &m.latencies;
    let counts: Vec<String> = h
        .iter_recorded()
        .map(|v| format!("[{},{}]", v.value_iterated_to(), v.count_at_value()))
        .collect();
    let seconds = m.busy.as_secs_f64();
    let ways = if kind == "oneway" { 1 } else { 2 };
    say(&format!(
        concat!(
            r#"{{"bytes":{},"ops":{},"busy_ns":{},"elapsed_ns":{},"ops_per_s":{:.1},"bytes_per_s":{:.1},"#,
            r#""p50_ns":{},"p90_ns":{},"p99_ns":{},"p999_ns":{},"max_ns":{},"counts":[{}]}}"#
        ),
        bytes,
        m.ops,
        m.busy.as_nanos(),
        m.elapsed.as_nanos(),
        m.ops as f64 / seconds,
        (m.ops * ways * bytes as u64) as f64 / seconds,
        h.value_at_quantile(0.5),
        h.value_at_quantile(0.9),
        h.value_at_quantile(0.99),
        h.value_at_quantile(0.999),
        h.max(),
        counts.join(",")
    ))
}

struct Measured {
    latencies: Histogram<u64>,
    ops: u64,
    busy: Duration,
    elapsed: Duration,
}

/// trips makes round trips and times each.
fn trips(end: &mut End, d: Duration, pace: Duration) -> Result<Measured> {
    let mut m = Measured {
        latencies: Histogram::new_with_bounds(1, LONGEST, 3)?,
        ops: 0,
        busy: Duration::ZERO,
        elapsed: Duration::ZERO,
    };
    let begin = Instant::now();
    loop {
        if !pace.is_zero() {
            std::thread::sleep(pace);
        }
        let stamp = end.prepare(m.ops);
        let start = Instant::now();
        end.trip()?;
        let now = Instant::now();
        end.check(stamp)?;
        let took = now - start;
        m.latencies
            .record((took.as_nanos() as u64).clamp(1, LONGEST))?;
        m.ops += 1;
        m.busy += took;
        m.elapsed = now - begin;
        if m.elapsed >= d {
            return Ok(m);
        }
    }
}

/// one_way sends messages one way; the clock stops when pong has said that all arrived.
fn one_way(end: &mut End, d: Duration) -> Result<Measured> {
    end.mark()?; // until pong is connected, what does not fit would be lost
    let mut sent = Tally::default();
    let begin = Instant::now();
    while begin.elapsed() < d {
        for _ in 0..CLOCK_EVERY {
            end.send(sent.messages)?;
            sent.add(sent.messages);
        }
    }
    let got = end.mark()?;
    let elapsed = begin.elapsed();
    if got != sent {
        return Err(format!("a message was lost or garbled: sent {sent:?}, got {got:?}").into());
    }
    Ok(Measured {
        latencies: Histogram::new_with_bounds(1, LONGEST, 3)?,
        ops: sent.messages,
        busy: elapsed,
        elapsed,
    })
}
