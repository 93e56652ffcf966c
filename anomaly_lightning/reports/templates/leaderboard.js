// Without script the tables of all metrics stand below each other; with it, one is chosen.
const chooser = document.getElementById("compared");
if (chooser) {
  const choose = () => {
    for (const table of document.querySelectorAll(".compared")) table.hidden = table.id !== `compared-${chooser.value}`;
  };
  chooser.closest("p").hidden = false;
  chooser.addEventListener("change", choose);
  choose();
}
