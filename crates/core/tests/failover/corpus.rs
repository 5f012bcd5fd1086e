//! Sequences that went wrong once.

use crate::faults::{Case, Fault, Shape};

pub(crate) fn all() -> Vec<(&'static str, Case)> {
    let case = |gateways, seed, faults: &[Fault]| Case {
        shape: Shape {
            gateways,
            workers: 0,
        },
        seed,
        faults: faults.to_vec(),
    };
    vec![
        (
            "who began after the secret was replaced heard nobody for half a minute",
            case(
                2,
                0x0485_4bf6_26f4_dc82,
                &[Fault::PowerOff(0), Fault::Rotate],
            ),
        ),
        (
            "two ended one after the other, the second with the Lease of the first in its name",
            case(
                2,
                0x4b02_cca7_10df_b514,
                &[Fault::Terminate(1), Fault::Rotate, Fault::Terminate(0)],
            ),
        ),
    ]
}
