//! The token bucket filter of a link (tc-tbf(8)), by netlink.

use std::io;
use std::num::NonZeroU64;

use futures::StreamExt;
use rtnetlink::packet_core::{DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

use crate::link::Links;

/// What may be sent at once, in milliseconds of the rate: more than a timer that is late loses.
const BURST_MILLIS: u64 = 10;
/// The least of that in bytes: one packet that the kernel has put together.
const MIN_BURST: u64 = 64 << 10;
/// What may wait, in milliseconds of the rate; what is more is dropped, so that senders notice.
const QUEUE_MILLIS: u64 = 100;

/// Attributes and constants of `linux/pkt_sched.h`.
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TC_LINKLAYER_ETHERNET: u8 = 1;

impl Links {
    /// Lets a link send at most `rate` bytes a second, whatever it might before.
    pub(crate) async fn shape(&self, index: u32, rate: NonZeroU64) -> io::Result<()> {
        let mut message = root(index);
        message.attributes = vec![TcAttribute::Kind("tbf".to_owned()), TcAttribute::Options(options(rate.get()))];
        let message = RouteNetlinkMessage::NewQueueDiscipline(message);
        self.tell(message, NLM_F_CREATE | NLM_F_REPLACE).await
    }

    /// Lets a link send as much as it can.
    pub(crate) async fn unshape(&self, index: u32) -> io::Result<()> {
        match self.tell(RouteNetlinkMessage::DelQueueDiscipline(root(index)), 0).await {
            // It was not limited.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => Ok(()),
            done => done,
        }
    }

    async fn tell(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let mut answers = self.handle().request(request).map_err(io::Error::other)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload {
                return Err(error.to_io());
            }
        }
        Ok(())
    }
}

fn root(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = TcHandle::ROOT;
    message
}

/// The options of a filter with this rate in bytes a second.
fn options(rate: u64) -> Vec<TcOption> {
    let part = |millis: u64| rate / 1000 * millis;
    let burst = part(BURST_MILLIS).max(MIN_BURST).min(u64::from(u32::MAX));
    let limit = part(QUEUE_MILLIS).saturating_add(burst).min(u64::from(u32::MAX));
    // struct tc_tbf_qopt: the specifications of rate and peak rate (12 bytes each), limit, buffer and MTU. The kernel takes
    // the rate of 64 bits before the one in here, and the burst in bytes before the buffer in ticks.
    let mut parameters = [0; 36];
    parameters[1] = TC_LINKLAYER_ETHERNET;
    parameters[8..12].copy_from_slice(&u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes());
    parameters[24..28].copy_from_slice(&(limit as u32).to_ne_bytes());
    let option = |kind, value: &[u8]| TcOption::Other(DefaultNla::new(kind, value.to_vec()));
    vec![
        option(TCA_TBF_PARMS, &parameters),
        option(TCA_TBF_RATE64, &rate.to_ne_bytes()),
        option(TCA_TBF_BURST, &(burst as u32).to_ne_bytes()),
    ]
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_core::Nla;

    use super::*;

    fn values(rate: u64) -> Vec<(u16, Vec<u8>)> {
        let value = |option: TcOption| {
            let mut bytes = vec![0; option.value_len()];
            option.emit_value(&mut bytes);
            (option.kind(), bytes)
        };
        options(rate).into_iter().map(value).collect()
    }

    #[test]
    fn any_rate_fits_its_fields() {
        for (rate, burst, limit) in
            [(1, 64 << 10, 64 << 10), (125_000_000, 1_250_000, 13_750_000), (u64::MAX, u32::MAX, u32::MAX)]
        {
            let values = values(rate);
            assert_eq!(values.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [1, 4, 6]);
            assert_eq!(values[0].1.len(), 36);
            assert_eq!(values[0].1[24..28], u32::to_ne_bytes(limit), "{rate}");
            assert_eq!(values[1].1, rate.to_ne_bytes());
            assert_eq!(values[2].1, u32::to_ne_bytes(burst), "{rate}");
        }
    }
}
