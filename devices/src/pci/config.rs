//! Type 0 configuration space: registers with write masks, BARs, and a list of capabilities.

/// Bytes of a function's configuration space (PCI Express size).
pub const CONFIG_SIZE: usize = 4096;

/// Bytes that are saved; behind them nothing is writable.
const SAVED: usize = LAST_CAPABILITY;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BAR0: usize = 0x10;
const CAPABILITIES: usize = 0x34;
/// Capabilities lie behind the header and within the first 256 bytes.
const FIRST_CAPABILITY: usize = 0x40;
const LAST_CAPABILITY: usize = 0x100;

const COMMAND_MEMORY: u8 = 1 << 1;
/// Memory decoding, bus mastering, parity errors.
const COMMAND_WRITABLE: u16 = 1 << 1 | 1 << 2 | 1 << 6 | 1 << 8 | 1 << 10;
const STATUS_CAPABILITIES: u8 = 1 << 4;
/// Type bits of a 64-bit, non-prefetchable memory BAR.
const BAR_MEMORY_64: u8 = 0b100;

/// A memory BAR that needs a place. All of Berth's BARs are 64-bit, non-prefetchable memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarRequest {
    /// Index of its first register, 0..=4.
    pub index: u8,
    /// Size in bytes, a power of two of at least 4096; also its alignment.
    pub size: u64,
}

/// What a function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Class, subclass and programming interface: `0xccsspp`.
    pub class: u32,
    /// Subsystem vendor.
    pub subsystem_vendor: u16,
    /// Subsystem device.
    pub subsystem: u16,
}

/// Registers of a type 0 function: each byte has a mask of the bits the guest may write.
pub struct ConfigSpace {
    bytes: Box<[u8; CONFIG_SIZE]>,
    writable: Box<[u8; CONFIG_SIZE]>,
    bars: Vec<BarRequest>,
    /// Where the next capability goes.
    next: usize,
    /// Where the link to the next capability goes.
    link: usize,
}

impl ConfigSpace {
    /// A function without BARs and capabilities.
    pub fn new(identity: Identity) -> Self {
        let mut this = Self {
            bytes: Box::new([0; CONFIG_SIZE]),
            writable: Box::new([0; CONFIG_SIZE]),
            bars: Vec::new(),
            next: FIRST_CAPABILITY,
            link: CAPABILITIES,
        };
        this.put(0x00, &identity.vendor.to_le_bytes());
        this.put(0x02, &identity.device.to_le_bytes());
        this.put(0x08, &[identity.revision]);
        this.put(0x09, &identity.class.to_le_bytes()[..3]);
        this.put(0x2c, &identity.subsystem_vendor.to_le_bytes());
        this.put(0x2e, &identity.subsystem.to_le_bytes());
        this.writable[COMMAND..COMMAND + 2].copy_from_slice(&COMMAND_WRITABLE.to_le_bytes());
        // Cache line size and interrupt line are scratch registers of the guest.
        this.writable[0x0c] = 0xff;
        this.writable[0x3c] = 0xff;
        this
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Adds a BAR.
    ///
    /// # Panics
    /// If the request is not one [`BarRequest`] describes: a mistake in a device model.
    pub fn add_bar(&mut self, bar: BarRequest) {
        assert!(bar.index <= 4 && bar.size.is_power_of_two() && bar.size >= 4096);
        let at = BAR0 + usize::from(bar.index) * 4;
        self.put(at, &[BAR_MEMORY_64]);
        self.writable[at..at + 8].copy_from_slice(&(!(bar.size - 1)).to_le_bytes());
        self.bars.push(bar);
    }

    /// Adds a capability: `body` follows the id and the link, `writable` masks its first bytes (the rest is read
    /// only). Returns the register of the capability.
    ///
    /// # Panics
    /// If the capabilities do not fit: a mistake in a device model.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> u16 {
        let at = self.next;
        let end = at + 2 + body.len();
        assert!(end <= LAST_CAPABILITY && writable.len() <= body.len());
        self.bytes[STATUS] |= STATUS_CAPABILITIES;
        self.bytes[self.link] = at as u8;
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.writable[at + 2..at + 2 + writable.len()].copy_from_slice(writable);
        self.link = at + 1;
        self.next = end.next_multiple_of(4);
        at as u16
    }

    /// Reads at byte `register`; bytes past the end read as ones.
    pub fn read(&self, register: u16, data: &mut [u8]) {
        for (at, byte) in (usize::from(register)..).zip(data) {
            *byte = self.bytes.get(at).copied().unwrap_or(0xff);
        }
    }

    /// Writes what the guest may write at byte `register`.
    pub fn write(&mut self, register: u16, data: &[u8]) {
        for (at, byte) in (usize::from(register)..CONFIG_SIZE).zip(data) {
            let mask = self.writable[at];
            self.bytes[at] = self.bytes[at] & !mask | byte & mask;
        }
    }

    /// The registers that a guest can change are among these.
    pub fn saved(&self) -> Vec<u8> {
        self.bytes[..SAVED].to_vec()
    }

    /// Takes over what a guest changed; false if another function wrote `saved`.
    pub fn restore(&mut self, saved: &[u8]) -> bool {
        let same = |at: usize| (self.bytes[at] ^ saved[at]) & !self.writable[at] == 0;
        let fits = saved.len() == SAVED && (0..SAVED).all(same);
        if fits {
            self.bytes[..SAVED].copy_from_slice(saved);
        }
        fits
    }

    /// A 16-bit register.
    pub fn word(&self, register: u16) -> u16 {
        let mut bytes = [0; 2];
        self.read(register, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// A 32-bit register.
    pub fn dword(&self, register: u16) -> u32 {
        let mut bytes = [0; 4];
        self.read(register, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// The BARs added.
    pub fn bars(&self) -> &[BarRequest] {
        &self.bars
    }

    /// Places a BAR and switches decoding on, as firmware would.
    pub fn set_bar_address(&mut self, index: u8, address: u64) {
        if self.bars.iter().any(|bar| bar.index == index) {
            self.write((BAR0 + usize::from(index) * 4) as u16, &address.to_le_bytes());
            self.bytes[COMMAND] |= COMMAND_MEMORY;
        }
    }

    /// Where BAR `index` decodes: nowhere while memory decoding is off, and not where its end would wrap round.
    pub fn bar_address(&self, index: u8) -> Option<u64> {
        let bar = self.bars.iter().find(|bar| bar.index == index)?;
        if self.bytes[COMMAND] & COMMAND_MEMORY == 0 {
            return None;
        }
        let at = (BAR0 + usize::from(index) * 4) as u16;
        let address = u64::from(self.dword(at)) | u64::from(self.dword(at + 4)) << 32;
        let address = address & !(bar.size - 1);
        address.checked_add(bar.size).map(|_| address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity {
        vendor: 0x1af4,
        device: 0x1042,
        revision: 1,
        class: 0x01_8000,
        subsystem_vendor: 0x1af4,
        subsystem: 0x40,
    };

    fn space() -> ConfigSpace {
        let mut space = ConfigSpace::new(IDENTITY);
        space.add_bar(BarRequest { index: 0, size: 0x8000 });
        space
    }

    #[test]
    fn identity_is_read_only() {
        let mut space = space();
        space.write(0, &[0xff; 4]);
        assert_eq!(space.dword(0), 0x1042_1af4);
        assert_eq!(space.dword(8), 0x0180_0001);
    }

    #[test]
    fn bars_can_be_sized_and_moved() {
        let mut space = space();
        assert_eq!(space.bar_address(0), None);
        space.set_bar_address(0, 0x40_0000_0000);
        assert_eq!(space.bar_address(0), Some(0x40_0000_0000));
        space.write(0x10, &[0xff; 8]);
        assert_eq!((space.dword(0x10), space.dword(0x14)), (0xffff_8004, 0xffff_ffff));
        assert_eq!(space.bar_address(0), None, "the end would wrap round");
        space.write(0x10, &0x1_2345_6789u64.to_le_bytes());
        assert_eq!(space.bar_address(0), Some(0x1_2345_0000));
        space.write(4, &[0]);
        assert_eq!(space.bar_address(0), None);
    }

    #[test]
    fn capabilities_are_linked() {
        let mut space = space();
        let first = space.add_capability(0x11, &[1; 10], &[0, 0xc0]);
        let second = space.add_capability(0x09, &[2; 14], &[]);
        assert_eq!(space.word(0x34) & 0xff, first);
        assert_eq!(space.word(first), 0x11 | second << 8);
        assert_eq!(space.word(second), 0x09);
        space.write(first + 2, &[0xff; 10]);
        assert_eq!(space.word(first + 2), 0xc101);
        assert_eq!(space.word(0x06) & 0x10, 0x10);
    }

    #[test]
    fn odd_accesses_at_the_end_are_survived() {
        let mut space = space();
        let mut data = [0; 8];
        space.read(4093, &mut data);
        assert_eq!(data, [0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff]);
        space.write(4095, &[1; 8]);
        space.write(u16::MAX, &[1; 8]);
    }
}
