//! Ranks that hold a GPU each, through NVIDIA's collective library.

use std::fmt::{self, Debug, Formatter};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use candle_core::Device;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, CudaStream};
use candle_core::cuda_backend::cudarc::nccl::{Comm, Id};

use super::{Collective, check_parts};
use crate::files::atomic;
use crate::{Error, Result};

/// A rank with a GPU of its own. Bytes go to the card, over the wires between cards, and back; nothing is added on the way.
///
/// One thread owns the library's handle and makes every call, in order. Who waits longer than the time-out for its answer ends the job.
pub struct Nccl {
    rank: usize,
    size: usize,
    timeout: Duration,
    calls: Mutex<Calls>,
    /// What the ranks met through, which also ends them.
    met: Option<Arc<dyn Collective>>,
}

type Parts = Vec<Vec<u8>>;
type Answer = std::result::Result<Parts, String>;

struct Calls {
    give: Sender<Parts>,
    answers: Receiver<Answer>,
}

impl Debug for Nccl {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "rank {} of {}, a GPU each", self.rank, self.size)
    }
}

/// Bytes of the name by which the ranks of one job find each other.
const NAME: usize = 128;

impl Nccl {
    /// Joins ranks that speak through another engine already, each with the GPU `device`.
    ///
    /// # Errors
    /// [`Error::Device`] for a device that is no GPU; [`Error::Request`] where the library refuses.
    pub fn join(device: &Device, met: Arc<dyn Collective>, timeout: Duration) -> Result<Self> {
        let mine = match met.rank() {
            0 => new_name()?,
            _ => Vec::new(),
        };
        let name = met.all_gather(&mine)?.swap_remove(0);
        let (rank, size) = (met.rank(), met.size());
        let calls = begin(stream(device)?, rank, size, name)?;
        Ok(Self {
            rank,
            size,
            timeout,
            calls,
            met: Some(met),
        })
    }

    /// Joins `size` ranks that share nothing but a file system: the first writes their common name to `path`, which must not be there
    /// before, and the others wait for it.
    ///
    /// # Errors
    /// As [`Nccl::join`]; [`Error::File`] where the file is there before the first rank, or not there after the time-out.
    pub fn join_by_file(
        device: &Device,
        path: &Path,
        (rank, size): (usize, usize),
        timeout: Duration,
    ) -> Result<Self> {
        let start = Instant::now();
        let name = match rank {
            0 if path.exists() => {
                let why = "is there already, expected a file that the first rank is to make";
                return Err(Error::file(path, why));
            }
            0 => {
                let name = new_name()?;
                atomic::replace_file(path, &name)?;
                name
            }
            _ => loop {
                match std::fs::read(path) {
                    Ok(name) => break name,
                    Err(_) if start.elapsed() < timeout => {
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    Err(e) => return Err(Error::file_because(path, "cannot read", e)),
                }
            },
        };
        let calls = begin(stream(device)?, rank, size, name)?;
        Ok(Self {
            rank,
            size,
            timeout,
            calls,
            met: None,
        })
    }
}

fn refused(what: impl Debug) -> Error {
    Error::request("NCCL", format!("{what:?}"))
}

fn stream(device: &Device) -> Result<Arc<CudaStream>> {
    match device {
        Device::Cuda(gpu) => Ok(gpu.cuda_stream()),
        _ => Err(Error::Device {
            name: "cpu".into(),
            why: "expected a GPU, which NCCL joins; processors are joined by MPI".into(),
            source: None,
        }),
    }
}

fn new_name() -> Result<Vec<u8>> {
    let id = Id::new().map_err(refused)?;
    Ok(id.internal().iter().map(|c| *c as u8).collect())
}

/// Starts the thread that makes the calls.
fn begin(stream: Arc<CudaStream>, rank: usize, size: usize, name: Vec<u8>) -> Result<Mutex<Calls>> {
    let name: [u8; NAME] = name.try_into().map_err(|found: Vec<u8>| {
        let why = format!("found a name of {} bytes, expected {NAME}", found.len());
        Error::request("NCCL", why)
    })?;
    let (give, given) = channel::<Parts>();
    let (answer, answers) = channel::<Answer>();
    std::thread::spawn(move || {
        let id = Id::uninit(name.map(|b| b as core::ffi::c_char));
        let comm = Comm::from_rank(stream, rank, size, id).map_err(|e| format!("{e:?}"));
        let begun = comm.as_ref().map(|_| Vec::new()).map_err(Clone::clone);
        if answer.send(begun).is_err() {
            return;
        }
        let Ok(comm) = comm else { return };
        for parts in given {
            if answer.send(exchange(&comm, &parts)).is_err() {
                return;
            }
        }
    });
    match answers.recv() {
        Ok(Ok(_)) => Ok(Mutex::new(Calls { give, answers })),
        Ok(Err(why)) => Err(Error::request("NCCL", why)),
        Err(_) => Err(Error::request("NCCL", "ended by a fault of the program")),
    }
}

/// Lengths first, then what they are the lengths of.
fn exchange(comm: &Comm, parts: &[Vec<u8>]) -> Answer {
    let words = |p: &Vec<u8>| (p.len() as u64).to_ne_bytes().to_vec();
    let said: Parts = parts.iter().map(words).collect();
    let word = |b: Vec<u8>| b.try_into().map(u64::from_ne_bytes);
    let lengths: std::result::Result<Vec<u64>, _> =
        carry(comm, &said, &vec![size_of::<u64>(); parts.len()])?
            .into_iter()
            .map(word)
            .collect();
    let lengths = lengths.map_err(|_| "a length of another size".to_string())?;
    let lengths: Vec<usize> = lengths.into_iter().map(|n| n as usize).collect();
    carry(comm, parts, &lengths)
}

fn carry(comm: &Comm, parts: &[Vec<u8>], lengths: &[usize]) -> Answer {
    let stream = comm.stream();
    let driver = |e| format!("{e:?}");
    let library = |e| format!("{e:?}");
    // A message of nothing needs memory of something.
    let sent: Vec<Option<CudaSlice<u8>>> = parts
        .iter()
        .map(|part| match part.is_empty() {
            true => Ok(None),
            false => stream.clone_htod(part).map(Some).map_err(driver),
        })
        .collect::<std::result::Result<_, _>>()?;
    let mut got: Vec<CudaSlice<u8>> = lengths
        .iter()
        .map(|n| stream.alloc_zeros(*n.max(&1)).map_err(driver))
        .collect::<std::result::Result<_, _>>()?;
    {
        let mut group = comm.group();
        for (peer, part) in sent.iter().enumerate() {
            if let Some(part) = part {
                group.send(part.as_view(), peer as i32).map_err(library)?;
            }
        }
        for (peer, (into, n)) in got.iter_mut().zip(lengths).enumerate() {
            if *n > 0 {
                let into = into.as_view_mut();
                group.recv(into, peer as i32).map_err(library)?;
            }
        }
    }
    let back = |(bytes, n): (&CudaSlice<u8>, &usize)| {
        let mut bytes = stream.clone_dtoh(bytes).map_err(driver)?;
        bytes.truncate(*n);
        Ok(bytes)
    };
    got.iter().zip(lengths).map(back).collect()
}

impl Collective for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn exchange(&self, parts: &[&[u8]]) -> Result<Vec<Vec<u8>>> {
        check_parts(parts, self.size)?;
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = || Error::request("NCCL", "ended by a fault of the program");
        let parts = parts.iter().map(|part| part.to_vec()).collect();
        calls.give.send(parts).map_err(|_| lost())?;
        match calls.answers.recv_timeout(self.timeout) {
            Ok(answer) => answer.map_err(|why| Error::request("NCCL", why)),
            Err(_) => Err(Error::request(
                format!("rank {} of {}", self.rank, self.size),
                format!(
                    "no answer of another rank within {:.0} s",
                    self.timeout.as_secs_f64()
                ),
            )),
        }
    }

    fn all_gather(&self, mine: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.exchange(&vec![mine; self.size])
    }

    fn abort(&self) -> ! {
        match &self.met {
            Some(met) => met.abort(),
            None => std::process::exit(1),
        }
    }
}
