# Writes the six novels of the R package janeaustenr (Debian: r-cran-janeaustenr) as UTF-8 text files.
# usage: Rscript export_texts.R OUTPUT_FOLDER
library(janeaustenr)
folder <- commandArgs(trailingOnly = TRUE)[1]
novels <- list(sense_and_sensibility = sensesensibility, pride_and_prejudice = prideprejudice,
               mansfield_park = mansfieldpark, emma = emma,
               northanger_abbey = northangerabbey, persuasion = persuasion)
for (name in names(novels))
  writeLines(enc2utf8(novels[[name]]), file.path(folder, paste0(name, ".txt")), useBytes = TRUE)
