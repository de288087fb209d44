#!/usr/bin/env nextflow
// Slides to nuclei with wsiseg, one task a slide. For research use only.
//
//     nextflow run pipelines/nextflow -profile slurm,apptainer \
//         --slides '/data/slides/**.svs' --out /data/results [--options '--mpp 0.25']
//
// The module below is all that other workflows need:
//     include { WSISEG_SEGMENT } from './pipelines/nextflow/main.nf'
nextflow.enable.dsl = 2

params.slides = null
params.out = null
params.options = ''
params.gpu = false

// Results are written to `out` and not staged: a task that is stopped continues there. So `out`
// is a folder, not a channel of files, and -resume asks wsiseg, which returns finished runs at once.
process WSISEG_SEGMENT {
    tag "${slide.name}"
    label 'wsiseg'

    input:
    // folder below `out`; the slide (a file, or the folder of a DICOM slide); the data folder that
    // an MRXS slide has beside it, else []
    tuple val(folder), path(slide), path(data)
    val out   // absolute path, seen by every node and, with --bind or -v, in the container

    output:
    tuple val(folder), path('run.json'), emit: run

    script:
    def gpu = params.gpu ? 'cuda' : 'cpu'
    """
    into=${quoted([out, folder].findAll { part -> part }.join('/'))}
    mkdir -p "\$into"
    wsiseg segment ./${quoted(slide.name)} -o "\$into" --device ${gpu} --quiet ${params.options}
    cp "\$into"/${quoted(slide.name)}.wsiseg/run.json run.json
    """
}

// A name in single quotes for a shell, whatever is in it.
def quoted(text) {
    "'" + text.toString().replace("'", "'\\''") + "'"
}

workflow {
    if (!params.slides || !params.out) {
        error "give --slides 'GLOB' and --out DIR"
    }
    // The part of the pattern without a wildcard; folders below it come back in the results.
    def base = file(params.slides.toString().split(/[*?\[{]/)[0] + 'x').parent
    slides = Channel
        .fromPath(params.slides, type: 'any', checkIfExists: true)
        .map { slide ->
            def below = base.relativize(slide.parent).toString()
            def mrxs = slide.name.toLowerCase().endsWith('.mrxs')
            tuple(below, slide, mrxs ? file(slide.toString()[0..-6]) : [])
        }
    WSISEG_SEGMENT(slides, file(params.out).toAbsolutePath().toString())
    WSISEG_SEGMENT.out.run.count().view { n -> "${n} slides done: ${params.out}" }
}
