/*
 * Shows the nuclei of one wsiseg run in the image that is open.
 *
 * QuPath: Automate > Script editor > open this file > Run, then choose the run's folder
 * (it ends in .wsiseg).  Command line:
 *     QuPath script --project p.qpproj --image a.svs --save --args results/a.svs.wsiseg import_run.groovy
 *
 * Only wsiseg's own objects are ever removed: detections with the measurement "wsiseg: Cell id"
 * and the annotation "wsiseg tissue".  Research use only.
 */
import groovy.json.JsonSlurper
import qupath.fx.dialogs.FileChoosers
import qupath.lib.io.PathIO

import static qupath.lib.scripting.QP.*

// true: nuclei of an earlier import give way; false: they stay, and known ones are not repeated.
boolean replaceEarlier = true
// true: the outline of the tissue comes too, as a locked annotation.
boolean withTissue = false
// false: a run of a slide with another file name is taken too.
boolean checkName = true

def imageData = getCurrentImageData()
if (imageData == null)
    throw new IllegalStateException('No image is open; open the slide of the run first')

File run = args ? new File(args[0]) : FileChoosers.promptForDirectory('Run of this slide (*.wsiseg)', null)
if (run == null)
    return
File record = new File(run, 'run.json')
File cells = new File(run, 'cells.geojson.gz')
if (!record.isFile() || !cells.isFile())
    throw new IllegalArgumentException(run.getName() + ' has no run.json and cells.geojson.gz; choose a finished run')
def slide = new JsonSlurper().parse(record, 'UTF-8').slide

def server = imageData.getServer()
def names = server.getURIs().collect { new File(it.getPath() ?: '').getName() } + server.getMetadata().getName()
if (checkName && !names.contains(slide.name))
    throw new IllegalArgumentException('The run is of ' + slide.name + ', the image is ' + names[0] + '; set checkName = false if they are the same')
// The run's coordinates begin at the corner of the slide's bounds, where QuPath crops it to.
if (server.getWidth() != slide.bounds[2] || server.getHeight() != slide.bounds[3])
    throw new IllegalArgumentException('The image has ' + server.getWidth() + ' x ' + server.getHeight() +
            ' px, the slide of the run ' + slide.bounds[2] + ' x ' + slide.bounds[3] +
            '; open it with OpenSlide and without --no-crop')

def hierarchy = imageData.getHierarchy()
def objects = PathIO.readObjects(cells.toPath())
def earlier = hierarchy.getDetectionObjects().findAll { it.getMeasurementList().containsKey('wsiseg: Cell id') }
if (replaceEarlier) {
    hierarchy.removeObjects(earlier, true)
} else {
    def known = earlier.collect { it.getID() } as Set
    objects = objects.findAll { !known.contains(it.getID()) }
}
if (withTissue) {
    def older = hierarchy.getAnnotationObjects().findAll { it.getName() == 'wsiseg tissue' }
    hierarchy.removeObjects(older, true)
    hierarchy.addObjects(PathIO.readObjects(new File(run, 'tissue.geojson').toPath()))
}
hierarchy.addObjects(objects)
println(slide.name + ': ' + objects.size() + ' nuclei added' + (replaceEarlier ? ', ' + earlier.size() + ' earlier ones removed' : ''))
