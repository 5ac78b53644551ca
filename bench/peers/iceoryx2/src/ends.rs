//! The two ends of each kind of communication.

use std::sync::atomic::Ordering;

use iceoryx2::port::client::Client;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::server::Server;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use iceoryx2::sample::Sample;

use crate::{CLOSED, Result};

type S = ipc::Service;

// What the first eight bytes of a message say, other than a number.
const STOP: u64 = u64::MAX;
const MARK: u64 = u64::MAX - 1; // answer with the tally of what came

const STOP_EVENT: usize = 2;
const ECHO_EVENT: usize = 1;

/// LEAST is what a message has to hold: a number at each end.
pub const LEAST: usize = 16;

/// Tally is what has come one way.
#[derive(Default, Debug, PartialEq, Clone, Copy)]
pub struct Tally {
    pub messages: u64,
    pub sum: u64,
}

impl Tally {
    pub fn add(&mut self, number: u64) {
        self.messages += 1;
        self.sum = self.sum.wrapping_add(number);
    }
}

/// End is one side of one kind.
pub struct End {
    link: Link,
    one_way: bool,
    payload: Vec<u8>,
    copy: Vec<u8>, // of what came, where that is asked for
    echoed: [u8; LEAST], // the ends of what came back
    length: usize,
}

enum Link {
    /// Messages are copied into loaned samples, or are written where they lie.
    Samples {
        publisher: Publisher<S, [u8], ()>,
        subscriber: Subscriber<S, [u8], ()>,
        in_place: bool,
        /// What comes is copied out of its sample, too.
        out: bool,
    },
    Client(Client<S, [u8], (), [u8], ()>),
    Server(Server<S, [u8], (), [u8], ()>),
    /// Both sides sleep in the kernel until they are notified.
    Events {
        notifier: Box<Notifier<S>>,
        listener: Box<Listener<S>>,
    },
}

impl End {
    /// new makes the end of ping or of pong. Kinds are pubsub, copied, loaned, oneway,
    /// reqres and event.
    pub fn new(node: &Node<S>, kind: &str, bytes: usize, pinging: bool) -> Result<Self> {
        if bytes < LEAST && kind != "event" {
            return Err(format!("messages have {LEAST} bytes at least").into());
        }
        let name = |way: &str| -> Result<ServiceName> {
            Ok(format!("tandem/{kind}/{bytes}/{way}").as_str().try_into()?)
        };
        let (out, back) = if pinging {
            ("there", "back")
        } else {
            ("back", "there")
        };
        let link = match kind {
            "pubsub" | "copied" | "loaned" | "oneway" => {
                // A publisher waits for a subscriber that is behind, so nothing is lost.
                let depth = match kind {
                    "oneway" => ((1 << 20) / bytes).clamp(2, 1024),
                    _ => 2,
                };
                let service = |way: &str| -> Result<_> {
                    Ok(node
                        .service_builder(&name(way)?)
                        .publish_subscribe::<[u8]>()
                        .enable_safe_overflow(false)
                        .history_size(0)
                        .subscriber_max_buffer_size(depth)
                        .max_publishers(1)
                        .max_subscribers(1)
                        .open_or_create()?)
                };
                Link::Samples {
                    publisher: service(out)?
                        .publisher_builder()
                        .initial_max_slice_len(bytes)
                        .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
                        .create()?,
                    subscriber: service(back)?.subscriber_builder().create()?,
                    in_place: kind == "loaned",
                    out: kind == "copied",
                }
            }
            "reqres" => {
                let service = node
                    .service_builder(&name("call")?)
                    .request_response::<[u8], [u8]>()
                    .max_clients(1)
                    .max_servers(1)
                    .open_or_create()?;
                if pinging {
                    let builder = service.client_builder();
                    Link::Client(builder.initial_max_slice_len(bytes).create()?)
                } else {
                    let builder = service.server_builder();
                    Link::Server(builder.initial_max_slice_len(bytes).create()?)
                }
            }
            "event" => {
                let service = |way: &str| -> Result<_> {
                    Ok(node
                        .service_builder(&name(way)?)
                        .event()
                        .event_id_max_value(STOP_EVENT)
                        .open_or_create()?)
                };
                Link::Events {
                    notifier: Box::new(service(out)?.notifier_builder().create()?),
                    listener: Box::new(service(back)?.listener_builder().create()?),
                }
            }
            _ => return Err(format!("kind {kind:?} is unknown").into()),
        };
        Ok(End {
            link,
            one_way: kind == "oneway",
            payload: (0..bytes.max(LEAST)).map(|i| i as u8).collect(),
            copy: vec![0; bytes.max(LEAST)],
            echoed: [0; LEAST],
            length: bytes,
        })
    }

    /// prepare puts a number into the next message, and returns what both ends then hold.
    pub fn prepare(&mut self, number: u64) -> [u8; LEAST] {
        let n = self.payload.len();
        self.payload[..8].copy_from_slice(&number.to_le_bytes());
        self.payload[n - 8..].copy_from_slice(&(!number).to_le_bytes());
        both_ends(&self.payload)
    }

    /// trip sends the message that was prepared and waits until it is back.
    pub fn trip(&mut self) -> Result<()> {
        match &self.link {
            Link::Samples {
                publisher,
                subscriber,
                in_place,
                out,
            } => {
                publish(publisher, &self.payload, *in_place)?;
                let sample = next(subscriber)?;
                self.length = sample.len();
                self.echoed = if *out {
                    both_ends(copy_out(&mut self.copy, &sample))
                } else {
                    both_ends(&sample)
                };
            }
            Link::Client(client) => {
                let request = client.loan_slice_uninit(self.payload.len())?;
                let pending = request.write_from_slice(&self.payload).send()?;
                let response = spin(|| Ok(pending.receive()?))?;
                self.length = response.len();
                self.echoed = both_ends(&response);
            }
            Link::Events { notifier, listener } => {
                notifier.notify_with_custom_event_id(EventId::new(ECHO_EVENT))?;
                let mut came = 0;
                while came == 0 {
                    listener.blocking_wait(|e| came += e.count)?;
                }
                if came != 1 {
                    return Err(format!("{came} notifications instead of one").into());
                }
                self.echoed = both_ends(&self.payload); // there is none in an event
                self.length = self.payload.len();
            }
            Link::Server(_) => return Err("a server does not call".into()),
        }
        Ok(())
    }

    /// check fails if what came back is not what was sent.
    pub fn check(&self, sent: [u8; LEAST]) -> Result<()> {
        if self.length != self.payload.len() || self.echoed != sent {
            return Err("a message was lost or garbled".into());
        }
        Ok(())
    }

    /// send sends a message one way.
    pub fn send(&mut self, number: u64) -> Result<()> {
        self.prepare(number);
        match &self.link {
            Link::Samples {
                publisher,
                in_place,
                ..
            } => publish(publisher, &self.payload, *in_place),
            Link::Client(client) => {
                let request = client.loan_slice_uninit(self.payload.len())?;
                request.write_from_slice(&self.payload).send()?;
                Ok(())
            }
            Link::Events { notifier, .. } => {
                notifier.notify_with_custom_event_id(EventId::new(STOP_EVENT))?;
                Ok(())
            }
            Link::Server(_) => Err("a server does not call".into()),
        }
    }

    /// stop ends what pong does.
    pub fn stop(&mut self) -> Result<()> {
        self.send(STOP)
    }

    /// mark asks for the tally of what was sent one way.
    pub fn mark(&mut self) -> Result<Tally> {
        self.send(MARK)?;
        let Link::Samples { subscriber, .. } = &self.link else {
            return Err("only samples go one way".into());
        };
        let answer = next(subscriber)?;
        Ok(Tally {
            messages: number(&answer),
            sum: number(&answer[8..]),
        })
    }

    /// serve is what pong does until it is told to stop.
    pub fn serve(&mut self) -> Result<()> {
        let mut tally = Tally::default();
        match &self.link {
            Link::Samples {
                publisher,
                subscriber,
                in_place,
                out,
            } => loop {
                let sample = next(subscriber)?;
                match number(&sample) {
                    STOP => return Ok(()),
                    MARK => {
                        self.payload[..8].copy_from_slice(&tally.messages.to_le_bytes());
                        self.payload[8..16].copy_from_slice(&tally.sum.to_le_bytes());
                        publish(publisher, &self.payload, false)?;
                        tally = Tally::default();
                    }
                    n if self.one_way => tally.add(n),
                    _ if *out => publish(publisher, copy_out(&mut self.copy, &sample), false)?,
                    _ => publish(publisher, &sample, *in_place)?,
                }
            },
            Link::Server(server) => loop {
                let request = spin(|| Ok(server.receive()?))?;
                if number(&request) == STOP {
                    return Ok(());
                }
                let response = request.loan_slice_uninit(request.len())?;
                response.write_from_slice(&request).send()?;
            },
            Link::Events { notifier, listener } => loop {
                let (mut echo, mut stop) = (0, false);
                listener.blocking_wait(|e| match e.id.as_value() {
                    STOP_EVENT => stop = true,
                    _ => echo += e.count,
                })?;
                for _ in 0..echo {
                    notifier.notify_with_custom_event_id(EventId::new(ECHO_EVENT))?;
                }
                if stop {
                    return Ok(());
                }
            },
            Link::Client(_) => Err("a client does not serve".into()),
        }
    }
}

/// publish sends a sample that is as long as the message: all of it, or in place only its
/// two ends.
fn publish(publisher: &Publisher<S, [u8], ()>, message: &[u8], in_place: bool) -> Result<()> {
    let mut sample = publisher.loan_slice_uninit(message.len())?;
    if !in_place {
        sample.write_from_slice(message).send()?;
        return Ok(());
    }
    let n = message.len();
    let memory = sample.payload_mut();
    for i in (0..8).chain(n - 8..n) {
        memory[i].write(message[i]);
    }
    // Bytes have no invalid values, and shared memory has some value.
    unsafe { sample.assume_init() }.send()?;
    Ok(())
}

/// copy_out copies a message, and returns the copy.
fn copy_out<'a>(copy: &'a mut Vec<u8>, message: &[u8]) -> &'a [u8] {
    copy.clear();
    copy.extend_from_slice(message);
    copy
}

fn next(subscriber: &Subscriber<S, [u8], ()>) -> Result<Sample<S, [u8], ()>> {
    spin(|| Ok(subscriber.receive()?))
}

/// spin polls until there is something.
fn spin<T>(mut poll: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    for i in 1u64.. {
        if let Some(x) = poll()? {
            return Ok(x);
        }
        if i % 4096 == 0 && CLOSED.load(Ordering::Relaxed) {
            break;
        }
        std::hint::spin_loop();
    }
    Err("the host has gone".into())
}

fn number(message: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&message[..8]);
    u64::from_le_bytes(word)
}

fn both_ends(message: &[u8]) -> [u8; LEAST] {
    let mut ends = [0; LEAST];
    let n = message.len();
    if n >= LEAST {
        ends[..8].copy_from_slice(&message[..8]);
        ends[8..].copy_from_slice(&message[n - 8..]);
    }
    ends
}
