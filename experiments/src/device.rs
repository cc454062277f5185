//! The device that a run computes on, from its name.

use anyhow::{Context, Result, bail};
use candle_core::Device;
use serde::{Deserialize, Serialize};

/// The name of a device. All GPUs of a kind are equal: a run that was begun on one may go on on another, and
/// shards may have one each.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeviceName(pub String);

impl DeviceName {
    /// The name without the number of a GPU.
    pub fn kind(&self) -> &str {
        self.0.split(':').next().unwrap_or_default()
    }
}

impl PartialEq for DeviceName {
    fn eq(&self, other: &Self) -> bool {
        self.kind() == other.kind()
    }
}

/// Opens the device called `cpu`, `cuda:N` or `metal` for process `local_rank` of those that train together on
/// this machine: its GPU is number N + `local_rank`.
///
/// # Errors
/// When the name is none of these, the binary was built without that device, or the device cannot
/// be opened.
pub fn open(name: &str, local_rank: usize) -> Result<Device> {
    match name.split_once(':').unwrap_or((name, "0")) {
        ("cpu", "0") => Ok(Device::Cpu),
        ("cuda", index) => {
            let first: usize = index
                .parse()
                .with_context(|| format!("device `{name}`: `{index}` is not a GPU number"))?;
            if !candle_core::utils::cuda_is_available() {
                bail!("device `{name}`: this binary was built without CUDA; add --features cuda");
            }
            let open = || -> candle_core::Result<Device> {
                let device = Device::new_cuda(first + local_rank)?;
                conditioned_nn::cuda::keep_memory(&device)?;
                Ok(device)
            };
            open().with_context(|| format!("device `{name}` cannot be opened"))
        }
        ("metal", "0") => {
            if !candle_core::utils::metal_is_available() {
                bail!("device `metal`: this binary was built without it; add --features metal");
            }
            Device::new_metal(0).context("device `metal` cannot be opened")
        }
        _ => bail!("unknown device `{name}`; known: cpu, cuda:N, metal"),
    }
}
