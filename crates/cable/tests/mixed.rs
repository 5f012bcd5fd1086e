//! The kernel's device with one in this process. As `kernel.rs`, not built without the feature `kernel-wireguard`.

mod suite;

mod kernel_and_process {
    use super::suite::{self, Kind, suite};

    suite!([Kind::Kernel, Kind::Process]);
}

mod process_and_kernel {
    use super::suite::{self, Kind, suite};

    suite!([Kind::Process, Kind::Kernel]);
}
