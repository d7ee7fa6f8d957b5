//! On a tree of files like the kernel's.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;

use super::*;

const DISK: &str = "0000:01:00.0";

struct Tree(TempDir);

impl Tree {
    /// A machine with vfio, an IOMMU, two huge pages, and one NVMe controller with the kernel's driver.
    fn new() -> Self {
        let tree = Self(TempDir::new().unwrap());
        tree.file("sys/class/iommu/dmar0", "");
        tree.file("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "2\n");
        tree.file("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "1\n");
        tree.file("sys/bus/pci/drivers/vfio-pci/bind", "");
        tree.file("sys/bus/pci/drivers_probe", "");
        tree.device(DISK, "0x010802", Some("nvme"), "7");
        tree.file(&format!("sys/bus/pci/devices/{DISK}/nvme/nvme0/nvme0n1/size"), "8");
        tree.block_device("nvme0n1", "259:0");
        tree
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn device(&self, address: &str, class: &str, driver: Option<&str>, group: &str) {
        let folder = format!("sys/bus/pci/devices/{address}");
        for (name, text) in [
            ("class", class),
            ("vendor", "0x1b36"),
            ("device", "0x0010"),
            ("numa_node", "1"),
            ("driver_override", ""),
        ] {
            self.file(&format!("{folder}/{name}"), &format!("{text}\n"));
        }
        let members = format!("sys/kernel/iommu_groups/{group}/devices");
        fs::create_dir_all(self.path().join(&members)).unwrap();
        symlink(format!("../../../../bus/pci/devices/{address}"), self.path().join(members).join(address))
            .unwrap();
        symlink(
            format!("../../../../kernel/iommu_groups/{group}"),
            self.path().join(&folder).join("iommu_group"),
        )
        .unwrap();
        if let Some(driver) = driver {
            self.file(&format!("sys/bus/pci/drivers/{driver}/unbind"), "");
            symlink(format!("../../drivers/{driver}"), self.path().join(&folder).join("driver")).unwrap();
        }
    }

    fn block_device(&self, name: &str, number: &str) {
        self.file(&format!("sys/class/block/{name}/dev"), number);
        fs::create_dir_all(self.path().join(format!("sys/class/block/{name}/holders"))).unwrap();
        self.file(&format!("dev/{name}"), "");
    }

    fn root(&self) -> Root {
        Root::at(self.path())
    }

    fn look(&self) -> Machine {
        Machine::look(&self.root())
    }

    fn bind(&self) -> Result<Vec<Action>, Refusal> {
        plan_bind(&self.look(), DISK.parse().unwrap())
    }
}

#[test]
fn an_nvme_controller_is_found_with_all_that_matters() {
    let tree = Tree::new();
    tree.device("0000:02:00.0", "0x020000", Some("e1000e"), "8");
    let machine = tree.look();
    assert!(machine.iommu && machine.vfio);
    assert_eq!(machine.huge_pages, Some(HugePages { total: 2, free: 1 }));
    let [device] = &machine.devices[..] else { panic!("{machine:?}") };
    assert_eq!((device.address.to_string(), &*device.id, device.node), (DISK.into(), "1b36:0010", Some(1)));
    assert_eq!((device.driver.as_deref(), device.iommu_group.as_deref()), (Some("nvme"), Some("7")));
    assert_eq!((&device.block_devices[..], &device.users[..]), (&["nvme0n1".to_owned()][..], &[][..]));
}

#[test]
fn with_multipath_the_shared_block_device_is_found() {
    let tree = Tree::new();
    let nvme = format!("sys/bus/pci/devices/{DISK}/nvme");
    fs::remove_dir_all(tree.path().join(&nvme)).unwrap();
    tree.file(&format!("{nvme}/nvme3/nvme0c3n1/size"), "8");
    tree.file(&format!("{nvme}/nvme3/hwmon1/name"), "nvme");
    assert_eq!(tree.look().devices[0].block_devices, ["nvme0n1"]);
}

#[test]
fn binding_hands_the_device_over_step_by_step() {
    let tree = Tree::new();
    let actions = tree.bind().unwrap();
    let shown: Vec<String> = actions.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        [
            "echo vfio-pci > /sys/bus/pci/devices/0000:01:00.0/driver_override",
            "echo 0000:01:00.0 > /sys/bus/pci/devices/0000:01:00.0/driver/unbind",
            "echo 0000:01:00.0 > /sys/bus/pci/drivers_probe",
        ]
    );
    for action in &actions {
        tree.root().carry_out(action).unwrap();
    }
    let read = |path: &str| fs::read_to_string(tree.path().join(path)).unwrap();
    assert_eq!(read("sys/bus/pci/drivers/nvme/unbind"), DISK);
    assert_eq!(read("sys/bus/pci/drivers_probe"), DISK);
    assert!(read("sys/bus/pci/devices/0000:01:00.0/driver_override").starts_with("vfio-pci"));
}

#[test]
fn vfio_is_loaded_when_it_is_not_there() {
    let tree = Tree::new();
    fs::remove_dir_all(tree.path().join("sys/bus/pci/drivers/vfio-pci")).unwrap();
    assert_eq!(tree.bind().unwrap()[0], Action::Load { module: "vfio-pci" });
}

#[test]
fn a_device_that_is_mounted_swapped_to_or_part_of_another_is_refused() {
    let mounted = Tree::new();
    mounted.block_device("nvme0n1p2", "259:2");
    mounted.file("sys/class/block/nvme0n1/nvme0n1p2/partition", "2");
    mounted.file(
        "proc/self/mountinfo",
        "22 1 0:20 / / rw - tmpfs none rw\n36 22 259:2 / /data rw - ext4 /dev/nvme0n1p2 rw\n",
    );
    let refused = mounted.bind().unwrap_err().to_string();
    assert_eq!(refused, "0000:01:00.0 is in use: nvme0n1p2 is mounted at /data");

    let swapped = Tree::new();
    swapped.file("proc/swaps", "Filename Type Size Used Priority\n/dev/nvme0n1 partition 8 0 -2\n");
    assert_eq!(swapped.bind().unwrap_err().to_string(), "0000:01:00.0 is in use: nvme0n1 is swap");

    let held = Tree::new();
    held.file("sys/class/block/nvme0n1/holders/dm-0/dev", "253:0");
    assert_eq!(held.bind().unwrap_err().to_string(), "0000:01:00.0 is in use: nvme0n1 is part of dm-0");
}

#[test]
fn a_group_is_given_away_whole_or_not_at_all() {
    let tree = Tree::new();
    tree.device("0000:00:01.0", "0x060400", Some("pcieport"), "7");
    assert!(tree.bind().is_ok(), "bridges do not count");
    tree.device("0000:01:00.1", "0x020000", Some("e1000e"), "7");
    let refused = tree.bind().unwrap_err();
    let others = vec!["0000:01:00.1 (e1000e)".to_owned()];
    assert_eq!(refused, Refusal::SharedGroup { address: DISK.parse().unwrap(), group: "7".into(), others });
}

#[test]
fn without_an_iommu_nothing_is_given_away() {
    let tree = Tree::new();
    fs::remove_file(tree.path().join(format!("sys/bus/pci/devices/{DISK}/iommu_group"))).unwrap();
    assert_eq!(tree.bind(), Err(Refusal::NoIommu(DISK.parse().unwrap())));
}

#[test]
fn only_nvme_controllers_are_touched() {
    let tree = Tree::new();
    tree.device("0000:02:00.0", "0x020000", Some("e1000e"), "8");
    let card = "0000:02:00.0".parse().unwrap();
    assert_eq!(plan_bind(&tree.look(), card), Err(Refusal::NotThere(card)));
    assert_eq!(plan_unbind(&tree.look(), card), Err(Refusal::NotThere(card)));
}

#[test]
fn unbinding_gives_the_device_back_and_does_nothing_twice() {
    let tree = Tree::new();
    let disk = DISK.parse().unwrap();
    assert_eq!(plan_unbind(&tree.look(), disk), Ok(Vec::new()));
    let driver = tree.path().join(format!("sys/bus/pci/devices/{DISK}/driver"));
    fs::remove_file(&driver).unwrap();
    symlink("../../drivers/vfio-pci", &driver).unwrap();
    assert_eq!(tree.bind(), Ok(Vec::new()));
    let actions = plan_unbind(&tree.look(), disk).unwrap();
    assert_eq!(actions[0].to_string(), "echo  > /sys/bus/pci/devices/0000:01:00.0/driver_override");
    assert_eq!(actions.len(), 3);
}
