//! How many data threads run (`ztunnel-contract` 8.1, the note below the table).

use super::reader::{Reader, number};

/// `ZTUNNEL_WORKER_THREADS` beats the document's `concurrency`, which beats
/// what the CPU limits and requests suggest.
pub(crate) fn worker_threads(
    r: &mut Reader<'_>,
    concurrency: Option<usize>,
    cores: usize,
) -> usize {
    let cores = r.or("ZTUNNEL_CPU_LIMIT", cores, cpus).max(1);
    let limit = r.optional("ZTUNNEL_RESOURCE_CPU_LIMIT", cpus);
    let request = r
        .optional("ZTUNNEL_RESOURCE_CPU_REQUEST", cpus)
        .unwrap_or(0);
    let suggested = match limit {
        Some(limit) => limit.max(request).max(1),
        None => cores.div_ceil(4).max(request).max(2),
    };
    let configured = match concurrency {
        None => suggested,
        Some(0) => cores,
        Some(threads) => threads,
    };
    r.or("ZTUNNEL_WORKER_THREADS", configured, |text| {
        threads(text, cores)
    })
}

/// `N`, `N%` of the cores, or 0 for all of them.
fn threads(text: &str, cores: usize) -> Result<usize, String> {
    let wrong = || "is neither a number of threads nor a percentage of the cores".to_owned();
    match text.strip_suffix('%') {
        Some(percent) => {
            let percent: usize = number(percent.trim()).map_err(|_| wrong())?;
            let share = cores.checked_mul(percent).ok_or_else(wrong)?;
            Ok(share.div_ceil(100).max(1))
        }
        None => match number(text).map_err(|_| wrong())? {
            0 => Ok(cores),
            threads => Ok(threads),
        },
    }
}

/// A Kubernetes CPU quantity, rounded up to whole CPUs.
fn cpus(text: &str) -> Result<usize, String> {
    let wrong = || "is not a CPU quantity such as 2, 1.5 or 500m".to_owned();
    let scales = [("n", 1e-9), ("u", 1e-6), ("m", 1e-3), ("k", 1e3)];
    let scale = scales
        .iter()
        .find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, *scale)));
    let (digits, scale) = scale.unwrap_or((text, 1.0));
    let value: f64 = digits.parse().map_err(|_| wrong())?;
    let whole = (value * scale).ceil();
    if !(0.0..=65_536.0).contains(&whole) {
        return Err(wrong());
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked above"
    )]
    Ok(whole as usize)
}
