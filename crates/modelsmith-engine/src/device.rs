//! Devices by name.

use burn::tensor::Device;
use modelsmith_core::error::{Error, Result};

/// Names of the devices this program was built for.
pub const KNOWN: &[&str] = &[
    "flex",
    #[cfg(feature = "cuda")]
    "cuda",
    #[cfg(feature = "rocm")]
    "rocm",
    #[cfg(feature = "vulkan")]
    "vulkan",
    #[cfg(feature = "metal")]
    "metal",
];

/// The device of a name: `flex` (the processor), or `cuda`, `rocm`, `vulkan`, `metal` where built
/// in, with an index after a colon (`cuda:1`).
///
/// # Errors
/// An unknown name, or one that needs a cargo feature; there is no silent fallback.
pub fn device(name: &str) -> Result<Device> {
    let (kind, index) = match name.split_once(':') {
        Some((kind, index)) => (
            kind,
            index.parse::<usize>().map_err(|_| {
                Error::config("device", format!("`{name}`: `{index}` is not a number"))
            })?,
        ),
        None => (name, 0),
    };
    match kind {
        "flex" | "cpu" if index == 0 => Ok(Device::flex()),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(index)),
        #[cfg(feature = "rocm")]
        "rocm" => Ok(Device::rocm(index)),
        #[cfg(feature = "vulkan")]
        "vulkan" => Ok(Device::vulkan(burn::tensor::DeviceKind::DiscreteGpu(index))),
        #[cfg(feature = "metal")]
        "metal" => Ok(Device::metal(burn::tensor::DeviceKind::DiscreteGpu(index))),
        "cuda" | "rocm" | "vulkan" | "metal" => Err(Error::config(
            "device",
            format!(
                "`{kind}` is not in this build; build with `--features {kind}`, or use one of {}",
                KNOWN.join(", ")
            ),
        )),
        _ => Err(Error::config(
            "device",
            format!("unknown device `{name}`; known: {}", KNOWN.join(", ")),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_and_absent_devices_are_refused_by_name() {
        assert!(device("flex").is_ok());
        let unknown = device("gpu").unwrap_err().to_string();
        assert!(unknown.contains("unknown device `gpu`"), "{unknown}");
        assert!(device("cuda:x").is_err());
    }
}
